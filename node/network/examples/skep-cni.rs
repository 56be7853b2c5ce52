//! The CNI plugin as a program of its own. `skep-node` does the same when it is called by the plugin's name.

use std::process::ExitCode;

fn main() -> ExitCode {
    if skep_network::is_cni_call() {
        return skep_network::cni_main();
    }
    eprintln!("this program is a CNI plugin: a container runtime calls it by the name {}", skep_network::PLUGIN_NAME);
    ExitCode::FAILURE
}
