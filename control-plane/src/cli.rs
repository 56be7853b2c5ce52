//! The command line: a contract that scripts outside this repository rely on.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::settings::{Options, Settings, default_data_dir};

/// The control plane of a skep cluster.
#[derive(Debug, Parser)]
#[command(name = "skep-server", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the control plane
    Run(Box<RunCommand>),
    /// Make a kubeconfig for a user, signed by the cluster's certificate authority
    ///
    /// A node's: --user system:node:NAME --group system:nodes
    Kubeconfig(KubeconfigCommand),
    /// List and renew the control plane's certificates
    Certs(CertsCommand),
}

#[derive(Debug, Args)]
pub(crate) struct RunCommand {
    /// YAML file with the same names as these flags (a flag wins over the file)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: Options,
}

impl RunCommand {
    /// The file, then the flags over it, then the defaults under both.
    pub(crate) fn settings(self) -> anyhow::Result<Settings> {
        let options = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                let file = Options::parse(&text).with_context(|| format!("in {}", path.display()))?;
                self.options.over(file)
            }
            None => self.options,
        };
        options.resolve()
    }
}

/// Where the PKI is.
#[derive(Debug, Args)]
pub(crate) struct PkiDir {
    /// The server's data directory [default: /var/lib/skep for root, else ~/.local/share/skep]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The directory of keys and certificates [default: DATA_DIR/pki]
    #[arg(long, value_name = "DIR")]
    pub(crate) pki_dir: Option<PathBuf>,
}

impl PkiDir {
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(default_data_dir)
    }

    pub(crate) fn pki_dir(&self) -> PathBuf {
        self.pki_dir.clone().unwrap_or_else(|| self.data_dir().join("pki"))
    }
}

#[derive(Debug, Args)]
pub(crate) struct KubeconfigCommand {
    #[command(flatten)]
    pub(crate) dir: PkiDir,
    /// The user's name
    #[arg(long)]
    pub(crate) user: String,
    /// A group the user belongs to (repeat it, or separate several by commas)
    #[arg(long = "group", value_name = "GROUP", value_delimiter = ',')]
    pub(crate) groups: Vec<String>,
    /// The API server's URL [default: that of DATA_DIR/admin.conf]
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Days the credentials are valid
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
    /// File to write, for its owner alone [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CertsCommand {
    #[command(subcommand)]
    pub(crate) action: CertsAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertsAction {
    /// Show every certificate and when it ends
    List {
        #[command(flatten)]
        dir: PkiDir,
    },
    /// Issue certificates anew, with the keys and names they have (servers take them up when restarted)
    Renew {
        #[command(flatten)]
        dir: PkiDir,
        /// Which ones [default: all but the authorities]
        names: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Ranges;

    fn settings(args: &[&str]) -> anyhow::Result<Settings> {
        let cli = Cli::try_parse_from(["skep-server", "run", "--bind-address", "192.0.2.7"].iter().chain(args))?;
        match cli.command {
            Command::Run(run) => run.settings(),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_upstreams() {
        let settings = settings(&["--data-dir", "/d"]).unwrap();
        assert_eq!(settings.secure_port, 6443);
        assert_eq!(settings.pki_dir, PathBuf::from("/d/pki"));
        assert_eq!(settings.service_node_port_range, 30000..=32767);
        assert!(settings.etcd.is_none(), "etcd is supervised");
        assert_eq!(settings.components.len(), 3);
    }

    #[test]
    fn the_advertised_address_is_the_bound_one_unless_told_otherwise() {
        assert_eq!(settings(&[]).unwrap().advertise_address.to_string(), "192.0.2.7");
        assert_eq!(settings(&[]).unwrap().local_url(), "https://192.0.2.7:6443");
        let ranges = ["--service-cluster-ip-range=fd00:1::/112", "--cluster-cidr=fd00:2::/56"];
        let args = ["run", "--bind-address", "::", "--advertise-address", "2001:db8::7"];
        let args = args.iter().chain(&ranges);
        let cli = Cli::try_parse_from(["skep-server"].iter().chain(args)).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        let settings = run.settings().unwrap();
        assert_eq!(settings.advertise_address.to_string(), "2001:db8::7");
        assert_eq!(settings.local_url(), "https://[::1]:6443");
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "secure-port: 7000\ndata-dir: /from-file\ncomponents: [apiserver]\n").unwrap();
        let settings = settings(&["--config", file.to_str().unwrap(), "--secure-port", "8000"]).unwrap();
        assert_eq!(settings.secure_port, 8000);
        assert_eq!(settings.data_dir, PathBuf::from("/from-file"));
        assert_eq!(settings.components.len(), 1);
    }

    #[test]
    fn an_unknown_key_of_the_file_is_an_error_that_names_key_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        for (text, expected) in [
            ("secure-prot: 7000", "secure-prot"),
            ("config: other.yaml", "config"),
            ("secure-port: many", "secure-port"),
            ("components: [apiserver, cloud]", "cloud"),
            ("- a", "config.yaml"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = format!("{:#}", settings(&["--config", file.to_str().unwrap()]).unwrap_err());
            assert!(error.contains(expected) && error.contains("config.yaml"), "{text}: {error}");
        }
        let missing = format!("{:#}", settings(&["--config", "/nonexistent.yaml"]).unwrap_err());
        assert!(missing.contains("cannot read /nonexistent.yaml"), "{missing}");
    }

    #[test]
    fn ranges_of_both_families_are_text_or_a_list_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        let text = "service-cluster-ip-range: 10.96.0.0/16,fd00:1::/112\ncluster-cidr: [10.244.0.0/16, 'fd00:2::/56']\n\
                    node-cidr-mask-size-ipv6: 72\n";
        std::fs::write(&file, text).unwrap();
        let from_file = settings(&["--config", file.to_str().unwrap()]).unwrap();
        let from_flags = settings(&[
            "--service-cluster-ip-range=10.96.0.0/16,fd00:1::/112",
            "--cluster-cidr=10.244.0.0/16,fd00:2::/56",
            "--node-cidr-mask-size-ipv6=72",
        ])
        .unwrap();
        for settings in [from_file, from_flags] {
            let ranges = |ranges: Ranges| ranges.iter().map(|range| range.to_string()).collect::<Vec<_>>();
            assert_eq!(ranges(settings.service_cluster_ip_range), ["10.96.0.0/16", "fd00:1::/112"]);
            assert_eq!(ranges(settings.cluster_cidr), ["10.244.0.0/16", "fd00:2::/56"]);
            assert_eq!((settings.node_cidr_masks.ipv4, settings.node_cidr_masks.ipv6), (24, 72));
        }
    }

    #[test]
    fn bad_ranges_in_the_file_are_refused_as_those_of_flags() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        for (text, expected) in [
            ("cluster-cidr: [10.244.0.0/16, 10.245.0.0/16]", "must be of different IP family"),
            ("cluster-cidr: []", "--cluster-cidr must contain at least one valid cidr"),
            ("cluster-cidr: 10.244.0.0", "\"10.244.0.0\": invalid IP address syntax"),
            ("service-cluster-ip-range: [10.96.0.0/16, fd00::/112, fd01::/112]", "more than two entries"),
            ("node-cidr-mask-size-ipv4: 12", "--node-cidr-mask-size-ipv4 12 does not fit"),
            ("node-cidr-mask-size-ipv4: -1", "node-cidr-mask-size-ipv4"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = format!("{:#}", settings(&["--config", file.to_str().unwrap()]).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_cluster_of_ipv6_first_listens_on_both_families() {
        let ranges = ["--service-cluster-ip-range=fd00:1::/112", "--cluster-cidr=fd00:2::/48"];
        let args = ["skep-server", "run", "--advertise-address=2001:db8::7"];
        let Command::Run(run) = Cli::try_parse_from(args.iter().chain(&ranges)).unwrap().command else {
            panic!("not run")
        };
        let settings = run.settings().unwrap();
        assert_eq!(settings.bind_address.to_string(), "::");
        assert_eq!(settings.local_url(), "https://[::1]:6443");
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "# nothing here\n").unwrap();
        assert_eq!(settings(&["--config", file.to_str().unwrap()]).unwrap().secure_port, 6443);
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_flag_in_the_text() {
        for (args, expected) in [
            (&["--etcd-cafile", "/ca"][..], "--etcd-cafile"),
            (&["--etcd-endpoints", "http://h:1", "--etcd-certfile", "/c"], "--etcd-keyfile"),
            (&["--etcd-endpoints", "h:1"], "--etcd-endpoints"),
            (&["--etcd-endpoints", "http://h:1", "--etcd-client-port", "1"], "--etcd-client-port"),
            (&["--components", "scheduler"], "--kubeconfig"),
            (&["--components", "apiserver", "--kubeconfig", "/k"], "--kubeconfig"),
            (&["--components", ""], "--components"),
            (&["--service-cluster-ip-range", "10.0.0.0/31"], "--service-cluster-ip-range"),
            (&["--service-cluster-ip-range", "10.0.0.0/8"], "--service-cluster-ip-range"),
            (&["--service-cluster-ip-range", "10.244.0.0/16"], "overlap"),
            (&["--service-cluster-ip-range", "10.96.0.0/16,10.97.0.0/16"], "must be of different IP family"),
            (&["--service-cluster-ip-range", "10.96.0.0/16,fd00::/112,fd01::/112"], "more than two entries"),
            (&["--service-cluster-ip-range", ""], "--service-cluster-ip-range"),
            (&["--service-cluster-ip-range", "10.96.0.0/16,"], "--service-cluster-ip-range"),
            (&["--cluster-cidr", "10.244.0.0/16,fd00::/129"], "--cluster-cidr"),
            (&["--cluster-cidr", "fd00::/48,fd01::/48"], "must be of different IP family"),
            (&["--node-cidr-mask-size-ipv6", "64"], "--node-cidr-mask-size-ipv6"),
            (&["--node-cidr-mask-size-ipv4", "300"], "--node-cidr-mask-size-ipv4"),
            (&["--service-node-port-range", "5"], "service-node-port-range"),
            (&["--advertise-address", "0.0.0.0"], "--advertise-address"),
            (&["--advertise-address", "127.0.0.1"], "--advertise-address"),
            (
                &["--advertise-address", "2001:db8::1"],
                "must be of the family of --service-cluster-ip-range 10.96.0.0/12",
            ),
            (&["--secure-port", "0"], "secure-port"),
        ] {
            let error = format!("{:#}", settings(args).unwrap_err());
            assert!(error.contains(expected), "{args:?}: {error}");
        }
    }
}
