//! Starts everything: leader election, informers, controllers.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use kube::Client;
use skep_client::{LeaderElection, Recorder, leader_election};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::certificates::CertificateController;
use crate::cluster_role_aggregation::ClusterRoleAggregation;
use crate::config::Config;
use crate::context::Context;
use crate::controller::{Queue, Reconciler, drive};
use crate::deployment::DeploymentController;
use crate::disruption::DisruptionController;
use crate::endpoint_slice::EndpointSliceController;
use crate::endpoint_slice_mirroring::EndpointSliceMirroringController;
use crate::endpoints::EndpointsController;
use crate::error::Error;
use crate::informers::Informers;
use crate::meta::ObjectKey;
use crate::namespace::NamespaceController;
use crate::node_ipam::NodeIpamController;
use crate::node_lifecycle::NodeLifecycleController;
use crate::protection::{ClaimProtection, VolumeProtection};
use crate::replica_set::ReplicaSetController;
use crate::resource_quota::ResourceQuotaController;
use crate::root_ca::RootCaPublisher;
use crate::service_account::ServiceAccountController;
use crate::service_cidr::ServiceCidrController;
use crate::taint_eviction::TaintEvictionController;
use crate::token_secrets::TokenSecrets;
use crate::work_queue::WorkQueue;
use crate::{garbage_collector, pod_gc};

/// Name of the component, its Lease and its events' source.
const COMPONENT: &str = "kube-controller-manager";

/// Runs all controllers until `shutdown`; with `config.leader_elect` only while this process holds the Lease
/// kube-system/kube-controller-manager.
///
/// # Errors
/// A configuration that makes no sense; leadership that was lost or a part that crashed: then the caller should start over
/// (upstream's process ends).
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    config.validate()?;
    let recorder = Recorder::new(client.clone(), COMPONENT, "");
    if !config.leader_elect {
        return lead(client, recorder, config, shutdown.child_token()).await;
    }
    let identity = config.identity.clone().unwrap_or_else(|| leader_election::default_identity(&host_name()));
    let (lease_duration, renew_deadline, retry_period) = config.lease_times;
    let election =
        LeaderElection { lease_duration, renew_deadline, retry_period, ..LeaderElection::new(COMPONENT, identity) };
    let (led, events) = (client.clone(), recorder.clone());
    let lead = move |stop| lead(led, events, config, stop);
    match leader_election::run(client, election, Some(recorder), shutdown, lead).await {
        Ok(led) => led.unwrap_or(Ok(())),
        Err(leader_election::Error::Lost { .. }) => Err(Error::LeadershipLost),
        Err(other) => Err(Error::LeaderElection(Box::new(other))),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// A controller that was registered and waits for the informers.
struct Starter<'a> {
    context: &'a Context,
    /// Stops the workers; the informers go on a little longer.
    stop: &'a CancellationToken,
    tasks: &'a mut JoinSet<()>,
}

impl Starter<'_> {
    /// Makes the queue, builds the controller (which registers its handlers) and starts its workers. They find the queue
    /// empty until the informers run.
    fn start<R: Reconciler<Key = ObjectKey>>(
        &mut self,
        queue_name: &str,
        build: impl FnOnce(Context, Queue) -> Arc<R>,
    ) -> Arc<R> {
        let queue: Queue = Arc::new(WorkQueue::new(self.context.metrics.queue(queue_name)));
        let controller = build(self.context.clone(), queue.clone());
        let (workers, stop, informers) =
            (self.context.config.concurrency, self.stop.clone(), self.context.informers.clone());
        let driven = controller.clone();
        self.tasks.spawn(async move {
            // A controller that acts on half a list would undo what it does not see.
            if informers.synced(&stop).await {
                drive(driven, queue, workers, stop).await;
            }
        });
        controller
    }
}

/// Runs the controllers until `stop`, which is this function's own to cancel.
async fn lead(client: Client, recorder: Recorder, config: Config, stop: CancellationToken) -> Result<(), Error> {
    let metrics = config.metrics.clone();
    let context = Context { informers: Informers::new(&client), recorder, client, metrics, config: Arc::new(config) };
    let mut tasks = JoinSet::new();
    let mut starter = Starter { context: &context, stop: &stop, tasks: &mut tasks };
    starter.start("deployment", DeploymentController::new);
    starter.start("replicaset", ReplicaSetController::<ReplicaSet>::new);
    starter.start("replicationmanager", ReplicaSetController::<ReplicationController>::new);
    starter.start("endpoint_slice", EndpointSliceController::new);
    starter.start("endpoint_slice_mirroring", EndpointSliceMirroringController::new);
    starter.start("endpoint", EndpointsController::new);
    starter.start("disruption", DisruptionController::new);
    starter.start("pvcprotection", ClaimProtection::new);
    starter.start("pvprotection", VolumeProtection::new);
    starter.start("service_cidr", ServiceCidrController::new);
    let quotas = starter.start("resource_quota_controller", ResourceQuotaController::new);
    starter.start("namespace", NamespaceController::new);
    starter.start("serviceaccount", ServiceAccountController::new);
    starter.start("taint_eviction", TaintEvictionController::new);
    starter.start("cluster_role_aggregator", ClusterRoleAggregation::new);
    starter.start("certificate", CertificateController::new);
    starter.start("serviceaccount_tokens", TokenSecrets::new);
    if context.config.root_ca.is_some() {
        starter.start("root_ca_cert_publisher", RootCaPublisher::new);
    }
    if context.config.allocate_node_cidrs {
        starter.start("node_ipam", NodeIpamController::new);
    }
    let node_lifecycle = starter.start("node_lifecycle_controller", NodeLifecycleController::new);

    // All handlers are registered: now the watches may begin.
    context.informers.run(&mut tasks, &stop);
    tasks.spawn(garbage_collector::run(context.clone(), quotas, stop.clone()));
    let (later, end) = (context.clone(), stop.clone());
    tasks.spawn(async move {
        if later.informers.synced(&end).await {
            info!("informers are synced, controllers work");
            tokio::join!(node_lifecycle.monitor(end.clone()), pod_gc::run(later, end));
        }
    });
    let mut outcome = Ok(());
    while let Some(result) = tasks.join_next().await {
        if let Err(failure) = result
            && failure.is_panic()
            && outcome.is_ok()
        {
            // A dead informer would leave every controller blind: better end, and let the caller start over.
            stop.cancel();
            outcome = Err(Error::Panicked(failure));
        }
    }
    outcome
}
