//! Who owns whom. No I/O: the graph takes what watches report and says which objects need a look.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::meta;

/// Finalizer of an object that waits for its dependents to be deleted.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents are to be left alone.
pub(super) const ORPHAN: &str = "orphan";

/// An object's uid, the key of the graph.
pub(super) type Uid = String;

/// Where an object is to be found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) api_version: String,
    pub(super) kind: String,
    /// Empty for cluster-scoped objects.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Uid,
}

impl Identity {
    /// True if an owner reference names this object by the same coordinates. The namespace is the dependent's or none.
    fn is_named_by(&self, owner: &OwnerReference) -> bool {
        self.kind == owner.kind && self.name == owner.name && group(&self.api_version) == group(&owner.api_version)
    }
}

/// The group of an apiVersion, empty for the core group.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// One object. It is virtual until a watch has reported it: known only because others name it as their owner.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) dependents: HashSet<Uid>,
    pub(super) being_deleted: bool,
    pub(super) deleting_dependents: bool,
    pub(super) observed: bool,
}

/// What a change asks for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Todo {
    /// Objects that may have to be deleted, or let go.
    pub(super) delete: Vec<Uid>,
    /// Objects whose dependents are to be orphaned.
    pub(super) orphan: Vec<Uid>,
}

/// All objects by uid.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The object's dependents.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Node> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        node.dependents.iter().filter_map(|dependent| self.nodes.get(dependent).cloned()).collect()
    }

    /// An object was added or changed.
    pub(super) fn apply(&mut self, identity: Identity, metadata: &ObjectMeta) -> Todo {
        let mut todo = Todo::default();
        let uid = identity.uid.clone();
        let owners = metadata.owner_references.clone().unwrap_or_default();
        let has = |finalizer: &str| metadata.finalizers.iter().flatten().any(|f| f == finalizer);
        let deleting = meta::is_deleting(metadata);
        let (orphaning, foreground) = (deleting && has(ORPHAN), deleting && has(FOREGROUND));

        let node = self.nodes.entry(uid.clone()).or_insert_with(|| Node {
            identity: identity.clone(),
            owners: Vec::new(),
            dependents: HashSet::new(),
            being_deleted: false,
            deleting_dependents: false,
            observed: false,
        });
        let was_virtual = !std::mem::replace(&mut node.observed, true);
        let was_foreground = std::mem::replace(&mut node.deleting_dependents, foreground);
        let was_deleting = std::mem::replace(&mut node.being_deleted, deleting);
        node.identity = identity.clone();
        let old_owners = std::mem::replace(&mut node.owners, owners.clone());

        if was_virtual {
            // Dependents may have named this uid by other coordinates; those references are wrong.
            todo.delete.extend(self.misnaming_dependents(&identity));
        }
        self.update_owners(&uid, &identity.namespace, &old_owners, &owners, &mut todo);
        if orphaning && (!was_deleting || was_virtual) {
            todo.orphan.push(uid.clone());
        }
        if foreground && !was_foreground {
            todo.delete.extend(self.dependents(&uid).into_iter().map(|dependent| dependent.identity.uid));
            todo.delete.push(uid);
        }
        todo
    }

    fn misnaming_dependents(&self, identity: &Identity) -> Vec<Uid> {
        let misnames = |dependent: &Node| {
            dependent.owners.iter().any(|owner| owner.uid == identity.uid && !identity.is_named_by(owner))
        };
        self.dependents(&identity.uid).into_iter().filter(misnames).map(|dependent| dependent.identity.uid).collect()
    }

    fn update_owners(
        &mut self,
        uid: &str,
        namespace: &str,
        old: &[OwnerReference],
        new: &[OwnerReference],
        todo: &mut Todo,
    ) {
        for owner in old {
            let now = new.iter().find(|candidate| candidate.uid == owner.uid);
            let unblocked = owner.block_owner_deletion == Some(true)
                && now.is_none_or(|now| now.block_owner_deletion != Some(true));
            // An owner that waits for its dependents may have been waiting for this one.
            if unblocked && self.nodes.get(&owner.uid).is_some_and(|node| node.deleting_dependents) {
                todo.delete.push(owner.uid.clone());
            }
            if now.is_none() {
                self.unlink(&owner.uid, uid);
            }
        }
        for owner in new.iter().filter(|owner| !old.iter().any(|known| known.uid == owner.uid)) {
            match self.nodes.get_mut(&owner.uid) {
                Some(node) => {
                    node.dependents.insert(uid.to_owned());
                    let misnamed = node.observed && !node.identity.is_named_by(owner);
                    // A dependent that turns up while its owner deletes in the foreground has to go too.
                    if misnamed || node.deleting_dependents {
                        todo.delete.push(uid.to_owned());
                    }
                }
                None => {
                    let identity = Identity {
                        api_version: owner.api_version.clone(),
                        kind: owner.kind.clone(),
                        namespace: namespace.to_owned(),
                        name: owner.name.clone(),
                        uid: owner.uid.clone(),
                    };
                    let node = Node {
                        identity,
                        owners: Vec::new(),
                        dependents: HashSet::from([uid.to_owned()]),
                        being_deleted: false,
                        deleting_dependents: false,
                        observed: false,
                    };
                    self.nodes.insert(owner.uid.clone(), node);
                    // Whether it exists at all is to be asked.
                    todo.delete.push(owner.uid.clone());
                }
            }
        }
        // An object whose owners changed may have lost the last one that is really there.
        if !old.is_empty() && old != new {
            todo.delete.push(uid.to_owned());
        }
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(node) = self.nodes.get_mut(owner) {
            node.dependents.remove(dependent);
            // Nobody names it any more and no watch has seen it: it was never more than a name.
            if !node.observed && node.dependents.is_empty() {
                self.nodes.remove(owner);
            }
        }
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, uid: &str) -> Todo {
        let mut todo = Todo::default();
        let Some(node) = self.nodes.remove(uid) else { return todo };
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            if self.nodes.get(&owner.uid).is_some_and(|owner| owner.deleting_dependents) {
                todo.delete.push(owner.uid.clone());
            }
        }
        todo.delete.extend(node.dependents);
        todo
    }

    /// A virtual owner is not where `reference` says. Dependents that name it by other coordinates keep it alive under
    /// those; the others are to be looked at.
    pub(super) fn absent(&mut self, absent: &Identity) -> Todo {
        let Some(node) = self.nodes.get(&absent.uid) else { return Todo::default() };
        if node.observed {
            return Todo::default();
        }
        let mut todo = Todo::default();
        let mut alternative: Option<Identity> = None;
        for dependent in self.dependents(&absent.uid) {
            let named = dependent.owners.iter().find(|owner| owner.uid == absent.uid);
            match named {
                Some(owner) if !absent.is_named_by(owner) || dependent.identity.namespace != absent.namespace => {
                    alternative.get_or_insert_with(|| Identity {
                        api_version: owner.api_version.clone(),
                        kind: owner.kind.clone(),
                        namespace: dependent.identity.namespace.clone(),
                        name: owner.name.clone(),
                        uid: absent.uid.clone(),
                    });
                }
                _ => todo.delete.push(dependent.identity.uid),
            }
        }
        match alternative {
            None => {
                self.nodes.remove(&absent.uid);
            }
            Some(identity) => {
                for uid in &todo.delete {
                    if let Some(node) = self.nodes.get_mut(&absent.uid) {
                        node.dependents.remove(uid);
                    }
                }
                if let Some(node) = self.nodes.get_mut(&absent.uid) {
                    node.identity = identity;
                }
                todo.delete.push(absent.uid.clone());
            }
        }
        todo
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
