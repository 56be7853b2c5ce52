//! The pause image: built from the program in `pause/`, put into containerd's content store, never pulled.
//!
//! Only containerd's `sandbox_image` setting decides which image sandboxes use, so the name here is a constant to write there.

use std::collections::HashMap;

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteRequest, Image, UpdateImageRequest, WriteAction, WriteContentRequest,
};
use containerd_client::types::Descriptor;
use serde_json::json;
use sha2::{Digest, Sha256};
use tonic::Code;

use crate::channel::scoped;
use crate::{Cri, Error};

/// The name the image has in containerd, to be set as `sandbox_image`.
pub const IMAGE: &str = "localhost/skep/pause:1";

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// A content-addressed piece of the image.
struct Blob {
    digest: String,
    media_type: &'static str,
    data: Vec<u8>,
    labels: HashMap<String, String>,
}

impl Blob {
    fn new(media_type: &'static str, data: Vec<u8>) -> Self {
        let digest = format!("sha256:{}", hex(&Sha256::digest(&data)));
        Self { digest, media_type, data, labels: HashMap::new() }
    }

    fn size(&self) -> i64 {
        i64::try_from(self.data.len()).unwrap_or(i64::MAX)
    }

    fn descriptor(&self) -> serde_json::Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.data.len()})
    }
}

/// Layer, configuration and manifest, in the order to write them. The same program gives the same bytes.
fn blobs() -> Result<[Blob; 3], Error> {
    let layer = Blob::new("application/vnd.oci.image.layer.v1.tar", layer()?);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = Blob::new("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    });
    let mut manifest = Blob::new("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
    // What keeps the parts alive as long as the image.
    manifest.labels.insert("containerd.io/gc.ref.content.config".into(), config.digest.clone());
    manifest.labels.insert("containerd.io/gc.ref.content.l.0".into(), layer.digest.clone());
    Ok([layer, config, manifest])
}

fn layer() -> Result<Vec<u8>, Error> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.mode(tar::HeaderMode::Deterministic);
    let mut header = tar::Header::new_gnu();
    header.set_size(PROGRAM.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    archive.append_data(&mut header, "pause", PROGRAM)?;
    Ok(archive.into_inner()?)
}

impl Cri {
    /// Makes sure containerd holds the pause image under [`IMAGE`].
    pub async fn import_pause(&self) -> Result<(), Error> {
        let blobs = blobs()?;
        let lease = self.create_lease().await?;
        let result = self.write_image(&blobs, &lease).await;
        // The lease only bridges the time until the image refers to its parts.
        let released =
            LeasesClient::new(self.channel()).delete(scoped(DeleteRequest { id: lease, sync: false }, None)).await;
        if let Err(error) = released {
            tracing::warn!(%error, "could not release the lease of the pause image");
        }
        result
    }

    /// The image containerd starts sandboxes from.
    pub async fn sandbox_image(&self) -> Result<Option<String>, Error> {
        let config = self.config().await?;
        Ok(config.get("sandboxImage").and_then(|image| image.as_str()).map(str::to_owned))
    }

    async fn create_lease(&self) -> Result<String, Error> {
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), "2100-01-01T00:00:00Z".to_owned())]);
        let id = format!("skep-pause-{}", std::process::id());
        let message = scoped(CreateRequest { id: id.clone(), labels }, None);
        match LeasesClient::new(self.channel()).create(message).await {
            Ok(_) => Ok(id),
            Err(status) if status.code() == Code::AlreadyExists => Ok(id),
            Err(status) => Err(status.into()),
        }
    }

    async fn write_image(&self, blobs: &[Blob; 3], lease: &str) -> Result<(), Error> {
        for blob in blobs {
            self.write_blob(blob, lease).await?;
        }
        let [_, _, manifest] = blobs;
        let target = Descriptor {
            media_type: manifest.media_type.to_owned(),
            digest: manifest.digest.clone(),
            size: manifest.size(),
            ..Default::default()
        };
        let labels = [("io.cri-containerd.image", "managed"), ("io.cri-containerd.pinned", "pinned")];
        let image = Image {
            name: IMAGE.to_owned(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            target: Some(target),
            ..Default::default()
        };
        let mut client = ImagesClient::new(self.channel());
        let create = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        match client.create(scoped(create, Some(lease))).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                let update = UpdateImageRequest { image: Some(image), ..Default::default() };
                client.update(scoped(update, Some(lease))).await?;
                Ok(())
            }
            Err(status) => Err(status.into()),
        }
    }

    async fn write_blob(&self, blob: &Blob, lease: &str) -> Result<(), Error> {
        let message = WriteContentRequest {
            action: WriteAction::Commit as i32,
            r#ref: format!("skep-pause-{}", blob.digest),
            total: blob.size(),
            expected: blob.digest.clone(),
            offset: 0,
            data: blob.data.clone(),
            labels: blob.labels.clone(),
        };
        let stream = tokio_stream::once(message);
        let written = match ContentClient::new(self.channel()).write(scoped(stream, Some(lease))).await {
            Ok(answer) => answer.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        match written {
            Ok(()) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(status.into()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_image() {
        let (first, second) = (blobs().unwrap(), blobs().unwrap());
        let digests = |blobs: &[Blob; 3]| blobs.each_ref().map(|blob| blob.digest.clone());
        assert_eq!(digests(&first), digests(&second));
    }

    #[test]
    fn the_program_is_an_executable_of_modest_size() {
        assert_eq!(&PROGRAM[..4], b"\x7fELF");
        assert!(PROGRAM.len() < 2 << 20, "pause takes {} bytes", PROGRAM.len());
    }
}
