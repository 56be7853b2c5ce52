//! Kubeconfig files: what kubectl and every client library read to find and enter a cluster.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::{Error, Identity, Result, files};

/// A kubeconfig. Fields this project does not know are kept as they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kubeconfig {
    #[serde(rename = "apiVersion", default = "v1")]
    api_version: String,
    #[serde(default = "config")]
    kind: String,
    #[serde(default)]
    clusters: Vec<Named<ClusterEntry>>,
    #[serde(default)]
    users: Vec<Named<UserEntry>>,
    #[serde(default)]
    contexts: Vec<Named<ContextEntry>>,
    #[serde(default)]
    current_context: String,
    #[serde(flatten)]
    rest: Rest,
}

type Rest = std::collections::BTreeMap<String, serde_json::Value>;

fn v1() -> String {
    "v1".to_owned()
}

fn config() -> String {
    "Config".to_owned()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Named<T> {
    name: String,
    #[serde(flatten)]
    entry: T,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ClusterEntry {
    cluster: Cluster,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_authority_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_authority: Option<PathBuf>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct UserEntry {
    user: User,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(rename = "tokenFile", skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(flatten)]
    rest: Rest,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ContextEntry {
    context: Context,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Context {
    cluster: String,
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

/// What a kubeconfig's current context comes to.
#[derive(Clone)]
pub struct Credentials {
    /// The API server's URL.
    pub server: String,
    /// The authorities to trust (PEM); `None` means the system's.
    pub ca: Option<String>,
    /// The client certificate and key.
    pub identity: Option<Identity>,
    /// The bearer token.
    pub token: Option<String>,
    /// The context's namespace.
    pub namespace: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("server", &self.server)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Kubeconfig {
    /// A kubeconfig for one cluster, one user and a context that joins them, all data embedded.
    pub fn new(server: &str, ca_pem: &str, user: &str, identity: &Identity) -> Self {
        const CLUSTER: &str = "kubernetes";
        let context = format!("{user}@{CLUSTER}");
        let cluster = Cluster {
            server: server.to_owned(),
            certificate_authority_data: Some(STANDARD.encode(ca_pem)),
            ..Cluster::default()
        };
        let credentials = User {
            client_certificate_data: Some(STANDARD.encode(&identity.certificate)),
            client_key_data: Some(STANDARD.encode(&identity.key)),
            ..User::default()
        };
        let joined = Context { cluster: CLUSTER.to_owned(), user: user.to_owned(), namespace: None, rest: Rest::new() };
        Self {
            api_version: v1(),
            kind: config(),
            clusters: vec![Named { name: CLUSTER.to_owned(), entry: ClusterEntry { cluster } }],
            users: vec![Named { name: user.to_owned(), entry: UserEntry { user: credentials } }],
            contexts: vec![Named { name: context.clone(), entry: ContextEntry { context: joined } }],
            current_context: context,
            rest: Rest::new(),
        }
    }

    /// Reads YAML or JSON. `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no kubeconfig.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let parsed: Self = serde_yaml_ng::from_str(text)
            .map_err(|error| Error::invalid(name, format!("not a kubeconfig: {error}")))?;
        if parsed.kind != "Config" {
            return Err(Error::invalid(name, format!("not a kubeconfig: kind is {:?}, not \"Config\"", parsed.kind)));
        }
        Ok(parsed)
    }

    /// Reads a file; file names in it are relative to it, as kubectl has it.
    ///
    /// # Errors
    /// When it cannot be read or is no kubeconfig.
    pub fn load(path: &Path) -> Result<Self> {
        let missing = || Error::Missing { path: path.to_owned(), hint: "no such kubeconfig".to_owned() };
        let mut parsed = Self::parse(&path.display().to_string(), &files::read(path)?.ok_or_else(missing)?)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let absolute = |file: &mut Option<PathBuf>| {
            if let Some(file) = file {
                *file = base.join(&file);
            }
        };
        for Named { entry: ClusterEntry { cluster }, .. } in &mut parsed.clusters {
            absolute(&mut cluster.certificate_authority);
        }
        for Named { entry: UserEntry { user }, .. } in &mut parsed.users {
            absolute(&mut user.client_certificate);
            absolute(&mut user.client_key);
            absolute(&mut user.token_file);
        }
        Ok(parsed)
    }

    /// As YAML.
    ///
    /// # Errors
    /// [`Error::Invalid`]; none is known.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml_ng::to_string(self).map_err(|error| Error::invalid("kubeconfig", error))
    }

    /// Writes it as YAML, for its owner alone (mode 0600), atomically.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_private(path, &self.to_yaml()?)
    }

    /// What the current context comes to; files it names are read. Embedded data wins over files, as upstream.
    ///
    /// # Errors
    /// When the context, its cluster or user is missing, or data or files are broken.
    pub fn credentials(&self) -> Result<Credentials> {
        let context = &find("context", &self.contexts, &self.current_context)?.context;
        let cluster = &find("cluster", &self.clusters, &context.cluster)?.cluster;
        let user = &find("user", &self.users, &context.user)?.user;
        let ca = material(
            "certificate-authority",
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
        )?;
        let certificate = material(
            "client-certificate",
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        )?;
        let key = material("client-key", user.client_key_data.as_deref(), user.client_key.as_deref())?;
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                return Err(Error::invalid(
                    "kubeconfig",
                    format!("user {:?} has a client-certificate but no client-key", context.user),
                ));
            }
            (None, Some(_)) => {
                return Err(Error::invalid(
                    "kubeconfig",
                    format!("user {:?} has a client-key but no client-certificate", context.user),
                ));
            }
        };
        let token = match (&user.token, &user.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(file)) => material("tokenFile", None, Some(file))?.map(|token| token.trim().to_owned()),
            (None, None) => None,
        };
        Ok(Credentials { server: cluster.server.clone(), ca, identity, token, namespace: context.namespace.clone() })
    }
}

fn find<'a, T>(what: &str, list: &'a [Named<T>], name: &str) -> Result<&'a T> {
    list.iter()
        .find(|named| named.name == name)
        .map(|named| &named.entry)
        .ok_or_else(|| Error::invalid("kubeconfig", format!("{what} {name:?} is not in it")))
}

/// Embedded base64 data, or else the text of a file.
fn material(what: &str, data: Option<&str>, file: Option<&Path>) -> Result<Option<String>> {
    match (data.filter(|data| !data.is_empty()), file) {
        (Some(data), _) => {
            let bytes = STANDARD.decode(data.trim()).map_err(|error| Error::invalid(format!("{what}-data"), error))?;
            String::from_utf8(bytes).map(Some).map_err(|_| Error::invalid(format!("{what}-data"), "not text"))
        }
        (None, Some(file)) => {
            let hint = format!("the kubeconfig names it as {what}");
            files::read(file)?.map(Some).ok_or_else(|| Error::Missing { path: file.to_owned(), hint })
        }
        (None, None) => Ok(None),
    }
}
