//! Sets of fields.

use std::{cmp::Ordering, fmt};

use crate::{element::Element, schema::Type};

/// The way to a field.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Element>);

impl Path {
    /// The way through fields of those names.
    pub fn of_fields(names: &[&str]) -> Self {
        Self(names.iter().map(|name| Element::field(name)).collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|element| element.fmt(f))
    }
}

/// A set of fields: a tree whose nodes may be members. That a node is a member says nothing of what is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Sorted by element; no node is empty.
    pub(crate) nodes: Vec<(Element, Node)>,
}

/// A place in a [`Set`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Whether the place itself is in the set.
    pub(crate) member: bool,
    /// What is in the set below it.
    pub(crate) below: Set,
}

impl Node {
    pub(crate) fn leaf() -> Self {
        Self { member: true, below: Set::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// Nothing.
    pub const EMPTY: Self = Self { nodes: Vec::new() };

    /// The set of the given fields, each the names on the way to it.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(&path.iter().map(|name| Element::field(name)).collect::<Vec<_>>());
        }
        set
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a field. The empty path is ignored.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = match self.find(first) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(at, (first.clone(), Node::default()));
                at
            }
        };
        let node = &mut self.nodes[at].1;
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    /// Whether that very field is in it.
    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.node(last).is_some_and(|node| node.member),
            [first, rest @ ..] => self.node(first).is_some_and(|node| node.below.has(rest)),
        }
    }

    /// All its fields, in order.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, way: &mut Vec<Element>, paths: &mut Vec<Path>) {
        for (element, node) in &self.nodes {
            way.push(element.clone());
            if node.member {
                paths.push(Path(way.clone()));
            }
            node.below.collect(way, paths);
            way.pop();
        }
    }

    fn find(&self, element: &Element) -> Result<usize, usize> {
        self.nodes.binary_search_by(|(other, _)| other.cmp(element))
    }

    pub(crate) fn node(&self, element: &Element) -> Option<&Node> {
        self.find(element).ok().map(|at| &self.nodes[at].1)
    }

    /// Makes a set of nodes in any order, each element at most once; empty nodes vanish.
    pub(crate) fn of_nodes(mut nodes: Vec<(Element, Node)>) -> Self {
        nodes.retain(|(_, node)| !node.is_empty());
        if !nodes.is_sorted_by(|(a, _), (b, _)| a <= b) {
            nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        nodes.dedup_by(|(later, dropped), (kept, node)| {
            let twin = later == kept;
            if twin {
                node.member |= dropped.member;
                node.below.unite(std::mem::take(&mut dropped.below));
            }
            twin
        });
        Self { nodes }
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.unite(other.clone());
        self
    }

    /// Adds all that is in `other`.
    pub fn unite(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        if other.is_empty() {
            return;
        }
        let mut out = Vec::with_capacity(self.nodes.len() + other.nodes.len());
        let mut left = std::mem::take(&mut self.nodes).into_iter().peekable();
        let mut right = other.nodes.into_iter().peekable();
        while let (Some((a, _)), Some((b, _))) = (left.peek(), right.peek()) {
            match a.cmp(b) {
                Ordering::Less => out.extend(left.next()),
                Ordering::Greater => out.extend(right.next()),
                Ordering::Equal => {
                    if let (Some((element, mut node)), Some((_, twin))) = (left.next(), right.next()) {
                        node.member |= twin.member;
                        node.below.unite(twin.below);
                        out.push((element, node));
                    }
                }
            }
        }
        out.extend(left);
        out.extend(right);
        self.nodes = out;
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let nodes = self.nodes.iter().filter_map(|(element, node)| {
            let twin = other.node(element)?;
            let node = Node { member: node.member && twin.member, below: node.below.intersection(&twin.below) };
            (!node.is_empty()).then(|| (element.clone(), node))
        });
        Self { nodes: nodes.collect() }
    }

    /// Whether anything is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.nodes.iter().any(|(element, node)| {
            other.node(element).is_some_and(|twin| (node.member && twin.member) || node.below.overlaps(&twin.below))
        })
    }

    /// Whether all of it is in `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self.nodes.iter().all(|(element, node)| {
            other.node(element).is_some_and(|twin| (twin.member || !node.member) && node.below.is_within(&twin.below))
        })
    }

    /// Takes away each field that is in `other`; what is below such a field stays.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.subtract(other, false);
        self
    }

    /// Takes away each field that is in `other`, and all below it.
    #[must_use]
    pub fn recursive_difference(mut self, other: &Self) -> Self {
        self.subtract(other, true);
        self
    }

    fn subtract(&mut self, other: &Self, recursive: bool) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|(element, node)| {
            if let Some(twin) = other.node(element) {
                if twin.member {
                    if recursive {
                        return false;
                    }
                    node.member = false;
                }
                node.below.subtract(&twin.below, recursive);
            }
            !node.is_empty()
        });
    }

    /// What of it is on the way to one of these places or below it; `*` stands for any element.
    #[must_use]
    pub fn within_places(self, places: &[&[&str]]) -> Self {
        if places.iter().any(|place| place.is_empty()) {
            return self;
        }
        let nodes = self.nodes.into_iter().filter_map(|(element, node)| {
            let fits = |place: &&&[&str]| place[0] == "*" || element == Element::field(place[0]);
            let rest: Vec<&[&str]> = places.iter().filter(fits).map(|place| &place[1..]).collect();
            let below = |node: Node| Node { below: node.below.within_places(&rest), ..node };
            (!rest.is_empty()).then(|| below(node)).filter(|node| !node.is_empty()).map(|node| (element, node))
        });
        Self { nodes: nodes.collect() }
    }

    /// The same with each declared field that has something below it: a set with `a.b.c` gets `a`, but not `a.b` if `b` is
    /// a key of a map.
    #[must_use]
    pub(crate) fn with_named_fields(&self, of: Type<'_>) -> Self {
        let nodes = self.nodes.iter().map(|(element, node)| {
            let (declared, inner) = match element {
                Element::Field(name) => match of.declared(name) {
                    Some(field) => (true, field),
                    None => (false, of.element()),
                },
                _ => (false, of.item()),
            };
            let member = node.member || (declared && !node.below.is_empty());
            (element.clone(), Node { member, below: node.below.with_named_fields(inner) })
        });
        Self { nodes: nodes.collect() }
    }
}

/// One field a line, for people.
impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.paths().iter().try_for_each(|path| writeln!(f, "{path}"))
    }
}
