//! Parameters of paths and queries.

/// One parameter.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// In the path, else in the query.
    pub(super) in_path: bool,
    /// `string`, `integer` or `boolean`.
    pub(super) kind: &'static str,
    pub(super) description: &'static str,
}

const fn query(name: &'static str, kind: &'static str, description: &'static str) -> Parameter {
    Parameter { name, in_path: false, kind, description }
}

pub(super) static NAME: Parameter =
    Parameter { name: "name", in_path: true, kind: "string", description: "name of the object" };
pub(super) static NAMESPACE: Parameter = Parameter {
    name: "namespace",
    in_path: true,
    kind: "string",
    description: "object name and auth scope, such as for teams and projects",
};
pub(super) static PRETTY: Parameter = query("pretty", "string", "If 'true', then the output is pretty printed.");
pub(super) static DRY_RUN: Parameter = query(
    "dryRun",
    "string",
    "With All, every stage of the request runs but nothing is stored. Any other value is an error.",
);
pub(super) static FIELD_MANAGER: Parameter = query(
    "fieldManager",
    "string",
    "The name of the actor that makes these changes: at most 128 printable characters. Required for server-side apply.",
);
pub(super) static FIELD_VALIDATION: Parameter = query(
    "fieldValidation",
    "string",
    "What becomes of unknown and duplicate fields: Ignore drops them, Warn (the default) drops them with a warning header, \
     Strict fails the request.",
);
pub(super) static FORCE: Parameter =
    query("force", "boolean", "Take over fields that others manage. Only for server-side apply.");

static ALLOW_WATCH_BOOKMARKS: Parameter =
    query("allowWatchBookmarks", "boolean", "Ask for events of type BOOKMARK. Ignored unless this is a watch.");
static CONTINUE: Parameter = query("continue", "string", "The token of the page before, to get the next one.");
static FIELD_SELECTOR: Parameter =
    query("fieldSelector", "string", "Only objects whose fields match. Everything, by default.");
static LABEL_SELECTOR: Parameter =
    query("labelSelector", "string", "Only objects whose labels match. Everything, by default.");
static LIMIT: Parameter = query("limit", "integer", "The largest number of objects in one page.");
static RESOURCE_VERSION: Parameter = query("resourceVersion", "string", "Which resource versions may be served.");
static RESOURCE_VERSION_MATCH: Parameter =
    query("resourceVersionMatch", "string", "How resourceVersion constrains a list: Exact or NotOlderThan.");
static SEND_INITIAL_EVENTS: Parameter =
    query("sendInitialEvents", "boolean", "Begin a watch with events that make up the present state, then a bookmark.");
static TIMEOUT_SECONDS: Parameter =
    query("timeoutSeconds", "integer", "Time after which the call ends, active or not.");
static WATCH: Parameter = query("watch", "boolean", "Answer with a stream of changes instead of a list.");

/// Of lists and watches.
pub(super) static LIST: [&Parameter; 10] = [
    &ALLOW_WATCH_BOOKMARKS,
    &CONTINUE,
    &FIELD_SELECTOR,
    &LABEL_SELECTOR,
    &LIMIT,
    &RESOURCE_VERSION,
    &RESOURCE_VERSION_MATCH,
    &SEND_INITIAL_EVENTS,
    &TIMEOUT_SECONDS,
    &WATCH,
];

static GRACE_PERIOD: Parameter =
    query("gracePeriodSeconds", "integer", "Seconds before the object is deleted; zero means at once.");
static ORPHAN: Parameter = query("orphanDependents", "boolean", "Deprecated: use propagationPolicy.");
static PROPAGATION: Parameter =
    query("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground.");
static UNSAFE_DELETE: Parameter = query(
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "Delete an object that cannot be read from the store.",
);

/// Of deletions.
pub(super) static DELETE: [&Parameter; 5] = [&DRY_RUN, &GRACE_PERIOD, &UNSAFE_DELETE, &ORPHAN, &PROPAGATION];

static CONTAINER: Parameter = query("container", "string", "The container; the only one, by default.");
static FOLLOW: Parameter = query("follow", "boolean", "Follow the log.");
static INSECURE: Parameter =
    query("insecureSkipTLSVerifyBackend", "boolean", "Do not verify the certificate of the node.");
static LIMIT_BYTES: Parameter = query("limitBytes", "integer", "Bytes after which the log is cut off.");
static PREVIOUS: Parameter = query("previous", "boolean", "The log of the container before this one.");
static SINCE_SECONDS: Parameter =
    query("sinceSeconds", "integer", "Only lines that are at most this many seconds old.");
static STREAM: Parameter = query("stream", "string", "Which stream: All, Stdout or Stderr.");
static TAIL_LINES: Parameter = query("tailLines", "integer", "Only this many lines at the end.");
static TIMESTAMPS: Parameter = query("timestamps", "boolean", "A timestamp before every line.");

/// Of logs.
pub(super) static LOG: [&Parameter; 9] =
    [&CONTAINER, &FOLLOW, &INSECURE, &LIMIT_BYTES, &PREVIOUS, &SINCE_SECONDS, &STREAM, &TAIL_LINES, &TIMESTAMPS];
