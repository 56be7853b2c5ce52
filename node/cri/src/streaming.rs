//! Streams into containers and pods. The runtime serves them itself: it answers each question with a URL.

use std::time::Duration;

use k8s_cri::v1::*;

use crate::channel::{request, within};
use crate::{Cri, Error};

const TIMEOUT: Duration = Duration::from_secs(120);

impl Cri {
    /// Where to run a command in a running container.
    pub async fn exec(&self, message: ExecRequest) -> Result<String, Error> {
        Ok(within("Exec", TIMEOUT, self.runtime().exec(request(message, TIMEOUT))).await?.url)
    }

    /// Where to join a running container's main process.
    pub async fn attach(&self, message: AttachRequest) -> Result<String, Error> {
        Ok(within("Attach", TIMEOUT, self.runtime().attach(request(message, TIMEOUT))).await?.url)
    }

    /// Where to reach ports of a running sandbox.
    pub async fn port_forward(&self, message: PortForwardRequest) -> Result<String, Error> {
        Ok(within("PortForward", TIMEOUT, self.runtime().port_forward(request(message, TIMEOUT))).await?.url)
    }
}
