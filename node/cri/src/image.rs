//! The image service.

use std::time::Duration;

use k8s_cri::v1::*;

use crate::channel::{request, within};
use crate::{Cri, Error};

const TIMEOUT: Duration = Duration::from_secs(120);
/// A pull may be long; the runtime itself gives up on a stalled one.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);

impl Cri {
    /// All images the runtime holds.
    pub async fn list_images(&self) -> Result<Vec<Image>, Error> {
        let call = request(ListImagesRequest { filter: None }, TIMEOUT);
        Ok(within("ListImages", TIMEOUT, self.images().list_images(call)).await?.images)
    }

    /// The image a reference stands for, if the runtime has it.
    pub async fn image_status(&self, reference: &str) -> Result<Option<Image>, Error> {
        let message = ImageStatusRequest { image: Some(spec(reference)), verbose: false };
        let call = request(message, TIMEOUT);
        Ok(within("ImageStatus", TIMEOUT, self.images().image_status(call)).await?.image)
    }

    /// Pulls an image; answers the reference to create containers with.
    pub async fn pull_image(&self, reference: &str, sandbox: Option<PodSandboxConfig>) -> Result<String, Error> {
        let message = PullImageRequest { image: Some(spec(reference)), auth: None, sandbox_config: sandbox };
        let call = request(message, PULL_TIMEOUT);
        Ok(within("PullImage", PULL_TIMEOUT, self.images().pull_image(call)).await?.image_ref)
    }

    /// Removes an image. Idempotent.
    pub async fn remove_image(&self, reference: &str) -> Result<(), Error> {
        let call = request(RemoveImageRequest { image: Some(spec(reference)) }, TIMEOUT);
        within("RemoveImage", TIMEOUT, self.images().remove_image(call)).await.map(drop)
    }

    /// What images occupy, by file system.
    pub async fn image_fs_info(&self) -> Result<Vec<FilesystemUsage>, Error> {
        let call = request(ImageFsInfoRequest {}, TIMEOUT);
        Ok(within("ImageFsInfo", TIMEOUT, self.images().image_fs_info(call)).await?.image_filesystems)
    }
}

fn spec(reference: &str) -> ImageSpec {
    ImageSpec { image: reference.to_owned(), user_specified_image: reference.to_owned(), ..Default::default() }
}
