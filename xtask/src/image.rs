//! Container images built from files on this machine, as OCI archives that `ctr images import` takes.
//! Format: OCI image-spec v1.1 (image layout, manifest, config).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What goes into an image: one layer, one configuration.
#[derive(Clone, Debug)]
pub struct Image {
    /// The full reference it is imported under, for example `localhost/skep/toolbox:1`.
    pub reference: String,
    /// Files: the path in the image, and where its bytes come from.
    pub files: Vec<(String, PathBuf)>,
    /// Symbolic links: the path in the image, and what it points to.
    pub links: Vec<(String, String)>,
    /// The program and the arguments that always go before the pod's.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub command: Vec<String>,
}

impl Image {
    /// Writes the image as an OCI archive to `archive`. The same input gives the same bytes.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let layer = self.layer().with_context(|| format!("cannot build image {}", self.reference))?;
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(&layer)?;
        let layer_gz = gz.finish()?;
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer_gz)],
        }))?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({ "io.containerd.image.name": self.reference });
        let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] }))?;

        if let Some(folder) = archive.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = fs::File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
        let mut tar = tar::Builder::new(file);
        add(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add(&mut tar, "index.json", 0o644, &index)?;
        for blob in [&layer_gz, &config, &manifest] {
            add(&mut tar, &format!("blobs/sha256/{}", hex(blob)), 0o644, blob)?;
        }
        tar.finish()?;
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for folder in ["bin", "etc", "tmp", "usr", "usr/bin", "var"] {
            let mut header = header(if folder == "tmp" { 0o1777 } else { 0o755 }, 0);
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
        }
        add(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
        add(&mut tar, "etc/group", 0o644, b"root:x:0:\nnobody:x:65534:\n")?;
        for (path, source) in &self.files {
            let bytes = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
            add(&mut tar, path.trim_start_matches('/'), 0o755, &bytes)?;
        }
        for (path, target) in &self.links {
            let mut header = header(0o777, 0);
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path.trim_start_matches('/'), target)?;
        }
        Ok(tar.into_inner()?)
    }
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}

fn add<W: std::io::Write>(tar: &mut tar::Builder<W>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    Ok(tar.append_data(&mut header(mode, bytes.len() as u64), path, bytes)?)
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The machine's architecture in OCI's (Go's) words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_a_layout_an_index_and_three_blobs_and_is_reproducible() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let image = Image {
            reference: "localhost/skep/test:1".into(),
            files: vec![("/bin/program".into(), program)],
            links: vec![("/bin/other".into(), "program".into())],
            entrypoint: vec!["/bin/program".into()],
            command: vec![],
        };
        let (first, second) = (dir.path().join("a.tar"), dir.path().join("b.tar"));
        image.write(&first).unwrap();
        image.write(&second).unwrap();
        assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
        let mut archive = tar::Archive::new(fs::File::open(&first).unwrap());
        let names: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names[..2], ["oci-layout", "index.json"]);
        assert_eq!(names.iter().filter(|name| name.starts_with("blobs/sha256/")).count(), 3);
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let image = Image {
            reference: "localhost/skep/test:1".into(),
            files: vec![("/bin/x".into(), "/no/such/file".into())],
            links: vec![],
            entrypoint: vec![],
            command: vec![],
        };
        let error = format!("{:#}", image.write(Path::new("/dev/null")).unwrap_err());
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
