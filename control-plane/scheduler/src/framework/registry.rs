//! Which plugins exist, and which of them a profile uses.

use std::{collections::BTreeMap, sync::Arc};

use kube::Client;

use super::{
    Bind, Filter, Framework, Permit, Plugin, PostBind, PostFilter, PreBind, PreEnqueue, PreFilter, PreScore, QueueSort,
    Reserve, Score,
};
use crate::{error::Error, plugins};

/// What a plugin may need to come into being.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
}

/// Creates a plugin and registers it for its extension points. The context is absent only where no plugin talks to the API.
pub type Factory = fn(&mut Registrar<'_>);

/// A plugin in a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginConfig {
    /// Its name in the registry.
    pub name: String,
    /// What its score counts for in the sum; at least one for plugins that score.
    pub weight: i64,
}

/// A set of plugins under a scheduler name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The `spec.schedulerName` this profile serves.
    pub scheduler_name: String,
    /// The plugins, in the order in which they run.
    pub plugins: Vec<PluginConfig>,
}

impl Profile {
    /// Upstream's default plugins and weights, as far as they exist here.
    pub fn default_plugins(scheduler_name: impl Into<String>) -> Self {
        let plugins = [
            ("SchedulingGates", 0),
            ("PrioritySort", 0),
            ("NodeUnschedulable", 0),
            ("NodeName", 0),
            ("TaintToleration", 3),
            ("NodeAffinity", 2),
            ("NodePorts", 0),
            ("NodeResourcesFit", 1),
            ("NodeResourcesBalancedAllocation", 1),
            ("ImageLocality", 1),
            ("DefaultBinder", 0),
        ];
        let plugins = plugins.map(|(name, weight)| PluginConfig { name: name.to_owned(), weight });
        Self { scheduler_name: scheduler_name.into(), plugins: plugins.into() }
    }
}

/// Plugins by name.
#[derive(Clone)]
pub struct Registry(BTreeMap<&'static str, Factory>);

impl Default for Registry {
    /// The plugins of this crate.
    fn default() -> Self {
        Self(plugins::ALL.into_iter().collect())
    }
}

impl Registry {
    /// Adds a plugin, or replaces the one of the same name.
    pub fn register(&mut self, name: &'static str, factory: Factory) {
        self.0.insert(name, factory);
    }

    /// Builds the framework of `profile`. Without a `context`, plugins that need the API server are not created.
    pub fn build(&self, profile: &Profile, context: Option<Context>) -> Result<Framework, Error> {
        let mut framework = Parts::default();
        for plugin in &profile.plugins {
            let factory = self.0.get(plugin.name.as_str()).ok_or_else(|| Error::UnknownPlugin {
                profile: profile.scheduler_name.clone(),
                plugin: plugin.name.clone(),
            })?;
            let mut registrar =
                Registrar { parts: &mut framework, weight: plugin.weight.max(1), context: context.as_ref() };
            factory(&mut registrar);
        }
        Framework::new(profile.scheduler_name.clone(), framework, context.is_some())
    }
}

/// The plugins of a framework by extension point.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) plugins: BTreeMap<&'static str, Arc<dyn Plugin>>,
    pub(super) queue_sort: Option<Arc<dyn QueueSort>>,
    pub(super) pre_enqueue: Vec<Arc<dyn PreEnqueue>>,
    pub(super) pre_filter: Vec<Arc<dyn PreFilter>>,
    pub(super) filter: Vec<Arc<dyn Filter>>,
    pub(super) post_filter: Vec<Arc<dyn PostFilter>>,
    pub(super) pre_score: Vec<Arc<dyn PreScore>>,
    pub(super) score: Vec<(Arc<dyn Score>, i64)>,
    pub(super) reserve: Vec<Arc<dyn Reserve>>,
    pub(super) permit: Vec<Arc<dyn Permit>>,
    pub(super) pre_bind: Vec<Arc<dyn PreBind>>,
    pub(super) bind: Vec<Arc<dyn Bind>>,
    pub(super) post_bind: Vec<Arc<dyn PostBind>>,
}

/// Where a factory puts its plugin: once for every trait it implements, and once in [`Registrar::hints`].
pub struct Registrar<'a> {
    parts: &'a mut Parts,
    weight: i64,
    context: Option<&'a Context>,
}

impl Registrar<'_> {
    /// What the plugin may need.
    pub fn context(&self) -> Option<&Context> {
        self.context
    }

    /// Asks this plugin about events that may help the pods it has rejected.
    pub fn hints(&mut self, plugin: Arc<dyn Plugin>) {
        self.parts.plugins.insert(plugin.name(), plugin);
    }

    /// The last one registered orders the queue.
    pub fn queue_sort(&mut self, plugin: Arc<dyn QueueSort>) {
        self.parts.queue_sort = Some(plugin);
    }

    /// See [`PreEnqueue`].
    pub fn pre_enqueue(&mut self, plugin: Arc<dyn PreEnqueue>) {
        self.parts.pre_enqueue.push(plugin);
    }

    /// See [`PreFilter`].
    pub fn pre_filter(&mut self, plugin: Arc<dyn PreFilter>) {
        self.parts.pre_filter.push(plugin);
    }

    /// See [`Filter`].
    pub fn filter(&mut self, plugin: Arc<dyn Filter>) {
        self.parts.filter.push(plugin);
    }

    /// See [`PostFilter`].
    pub fn post_filter(&mut self, plugin: Arc<dyn PostFilter>) {
        self.parts.post_filter.push(plugin);
    }

    /// See [`PreScore`].
    pub fn pre_score(&mut self, plugin: Arc<dyn PreScore>) {
        self.parts.pre_score.push(plugin);
    }

    /// See [`Score`]; the weight is the profile's.
    pub fn score(&mut self, plugin: Arc<dyn Score>) {
        self.parts.score.push((plugin, self.weight));
    }

    /// See [`Reserve`].
    pub fn reserve(&mut self, plugin: Arc<dyn Reserve>) {
        self.parts.reserve.push(plugin);
    }

    /// See [`Permit`].
    pub fn permit(&mut self, plugin: Arc<dyn Permit>) {
        self.parts.permit.push(plugin);
    }

    /// See [`PreBind`].
    pub fn pre_bind(&mut self, plugin: Arc<dyn PreBind>) {
        self.parts.pre_bind.push(plugin);
    }

    /// See [`Bind`].
    pub fn bind(&mut self, plugin: Arc<dyn Bind>) {
        self.parts.bind.push(plugin);
    }

    /// See [`PostBind`].
    pub fn post_bind(&mut self, plugin: Arc<dyn PostBind>) {
        self.parts.post_bind.push(plugin);
    }
}
