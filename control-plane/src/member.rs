//! Who this server is among those that write to the same etcd: the same after a restart, and nobody else.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use skep_storage::Member;
use uuid::Uuid;

use crate::settings::Settings;

/// The name of this host, and a number that is kept in the data directory. The caller has locked that, so of two
/// processes on one host each has its own; copies of a directory on several hosts differ by the hosts' names.
pub(crate) fn member(settings: &Settings) -> Result<Member> {
    let number = number(&settings.data_dir.join("server-id"))?;
    Ok(Member { id: format!("{}_{number}", settings.hostname), address: settings.advertise_address })
}

/// The number in a file, which is made if it is missing or was cut short.
fn number(path: &Path) -> Result<Uuid> {
    match fs::read_to_string(path) {
        Ok(text) => {
            if let Ok(number) = text.trim().parse() {
                return Ok(number);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let number = Uuid::new_v4();
    fs::write(path, format!("{number}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_and_one_that_was_cut_short_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server-id");
        let first = number(&path).unwrap();
        assert_eq!(number(&path).unwrap(), first);
        fs::write(&path, &first.to_string()[..9]).unwrap();
        let second = number(&path).unwrap();
        assert_ne!(second, first);
        assert_eq!(number(&path).unwrap(), second);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(number(&path).is_err(), "what cannot be read is not replaced");
    }
}
