//! Files that change all at once: every update is a new timestamped directory, shown by swapping the `..data` symlink.
//!
//! A reader sees the old set or the new set, never a mixture; upstream's AtomicWriter layout, which programs rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::podext::hex;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) data: Vec<u8>,
    pub(crate) mode: u32,
}

/// Relative paths and contents.
pub(crate) type Payloads = BTreeMap<String, Payload>;

/// Makes `dir` show exactly `files`. Does nothing when it already does. `group` becomes owner of what is new.
pub(crate) fn write(dir: &Path, files: &Payloads, group: Option<u32>) -> io::Result<bool> {
    for path in files.keys() {
        check(path)?;
    }
    fs::create_dir_all(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok().filter(|target| target.components().count() == 1);
    if let Some(old) = &old
        && matches_on_disk(&dir.join(old), files)
    {
        return Ok(false);
    }
    let fresh = fill_new_directory(dir, files, group)?;
    let _ = fs::remove_file(dir.join(NEW_DATA));
    symlink(&fresh, dir.join(NEW_DATA))?;
    fs::rename(dir.join(NEW_DATA), dir.join(DATA))?;
    link_visible_names(dir, files)?;
    if let Some(old) = old {
        // What nobody sees any more; a failure costs only space.
        if let Err(error) = fs::remove_dir_all(dir.join(&old)) {
            tracing::warn!(dir = %dir.display(), %error, "could not remove the previous content of a volume");
        }
    }
    Ok(true)
}

/// Paths come from the API: nothing absolute, nothing upward, nothing that hides our own names.
fn check(path: &str) -> io::Result<()> {
    let components: Vec<_> = Path::new(path).components().collect();
    let plain = !components.is_empty() && components.iter().all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.starts_with("..") || path.len() > 4096 {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("invalid path in volume: {path:?}")));
    }
    Ok(())
}

fn matches_on_disk(dir: &Path, files: &Payloads) -> bool {
    let mut found = BTreeSet::new();
    if collect(dir, dir, &mut found).is_err() || found.len() != files.len() {
        return false;
    }
    files.iter().all(|(path, payload)| {
        let full = dir.join(path);
        found.contains(Path::new(path))
            && fs::metadata(&full).is_ok_and(|meta| meta.permissions().mode() & 0o777 == payload.mode & 0o777)
            && fs::read(&full).is_ok_and(|data| data == payload.data)
    })
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, found)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.insert(relative.to_owned());
        }
    }
    Ok(())
}

fn fill_new_directory(dir: &Path, files: &Payloads, group: Option<u32>) -> io::Result<String> {
    let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S");
    let name = format!("..{stamp}.{}", hex(&rand::random::<[u8; 5]>()));
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, payload) in files {
        let full = fresh.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&full)?;
        file.write_all(&payload.data)?;
        // What the group may read it may read wherever the owner may.
        let mode = if group.is_some() { payload.mode | ((payload.mode & 0o700) >> 3) } else { payload.mode };
        if let Some(group) = group {
            std::os::unix::fs::fchown(&file, None, Some(group))?;
        }
        fs::set_permissions(&full, fs::Permissions::from_mode(mode & 0o777))?;
    }
    Ok(name)
}

/// `name -> ..data/name` for the first component of every path; names that went, go.
fn link_visible_names(dir: &Path, files: &Payloads) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&*name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Payloads {
        list.iter()
            .map(|(path, text)| ((*path).to_owned(), Payload { data: text.as_bytes().to_vec(), mode: 0o644 }))
            .collect()
    }

    #[test]
    fn a_volume_shows_exactly_the_files_of_the_last_update() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        assert!(!write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert!(write(dir.path(), &files(&[("a", "3"), ("c", "")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 4, "one timestamped directory, ..data, a, c: {names:?}");
        assert_eq!(names[2..], ["a", "c"]);
        assert_eq!(fs::read_link(dir.path().join("a")).unwrap(), Path::new("..data/a"));
    }

    #[test]
    fn an_empty_volume_still_has_its_data_link() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &Payloads::new(), None).unwrap();
        assert!(dir.path().join(DATA).is_dir());
    }

    #[test]
    fn modes_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut set = files(&[("a", "1")]);
        set.get_mut("a").unwrap().mode = 0o400;
        write(dir.path(), &set, None).unwrap();
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o400);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../a", "/a", "", "a/../../b", "..data"] {
            assert!(write(dir.path(), &files(&[(path, "x")]), None).is_err(), "{path:?}");
        }
    }
}
