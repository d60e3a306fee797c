//! The files that one command reads and writes: none of them may destroy another.

use std::path::{Path, PathBuf};

/// Links that are followed to a file that is not there yet; what is longer is a ring.
const MAX_LINKS: usize = 40;

/// What one command reads and writes.
#[derive(Debug, Default)]
pub(super) struct Files<'a> {
    all: Vec<File<'a>>,
}

#[derive(Debug)]
struct File<'a> {
    /// Its flag, or what it is where it has none.
    named: &'a str,
    path: &'a Path,
    is_written: bool,
}

impl<'a> Files<'a> {
    /// These are read by `named`.
    pub(super) fn read(mut self, named: &'a str, paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        self.all.extend(paths.into_iter().map(|path| File { named, path, is_written: false }));
        self
    }

    /// These are written by `named`.
    pub(super) fn written(mut self, named: &'a str, paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        self.all.extend(paths.into_iter().map(|path| File { named, path, is_written: true }));
        self
    }

    /// Refuses a file that is written by two, or read and written. Devices and pipes hold nothing that could be lost.
    pub(super) fn must_differ(&self) -> anyhow::Result<()> {
        // What is to be read and is not there cannot be destroyed.
        let is_at_stake = |file: &File<'_>| file.is_written || file.path.exists();
        let places: Vec<Option<Place>> =
            self.all.iter().map(|file| is_at_stake(file).then(|| place(file.path)).flatten()).collect();
        for (number, (later, later_place)) in self.all.iter().zip(&places).enumerate() {
            for (earlier, earlier_place) in self.all.iter().zip(&places).take(number) {
                if later_place.is_none() || earlier_place != later_place {
                    continue;
                }
                let lost = match (earlier.is_written, later.is_written) {
                    (false, false) => continue,
                    (true, true) => "what the one writes, the other would destroy",
                    _ => "what is read would be destroyed",
                };
                anyhow::bail!(
                    "{} {} and {} {} are one file: {lost}\nhint: give each a file of its own",
                    earlier.named,
                    earlier.path.display(),
                    later.named,
                    later.path.display()
                );
            }
        }
        Ok(())
    }
}

/// Which file a path means.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// One that is there: its device and number, whatever names it has.
    There(u64, u64),
    /// One that would be made.
    New(PathBuf),
}

/// `None`: no file that could be destroyed.
fn place(path: &Path) -> Option<Place> {
    use std::os::unix::fs::MetadataExt as _;

    if let Ok(metadata) = path.metadata() {
        return metadata.is_file().then(|| Place::There(metadata.dev(), metadata.ino()));
    }
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(leads_to) = path.read_link() else { break };
        path = path.parent().unwrap_or(Path::new("")).join(leads_to);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = parent.canonicalize().or_else(|_| std::path::absolute(parent)).ok()?;
    Some(Place::New(directory.join(path.file_name()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_one_by_whatever_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("there"), "recorded").unwrap();
        std::fs::hard_link(at("there"), at("same")).unwrap();
        std::os::unix::fs::symlink("there", at("link")).unwrap();
        std::os::unix::fs::symlink("new", at("dangling")).unwrap();
        std::os::unix::fs::symlink("ring", at("ring")).unwrap();
        let differ = |one: &Path, other: &Path| {
            let (one, other) = (one.to_path_buf(), other.to_path_buf());
            Files::default().written("--record", [&one]).written("--output", [&other]).must_differ()
        };
        for (one, other) in [
            ("there", "there"),
            ("there", "same"),
            ("there", "link"),
            ("there", "./there"),
            ("new", "new"),
            ("new", "../NAME/new"),
            ("new", "dangling"),
        ] {
            let other = other.replace("NAME", &directory.path().file_name().unwrap().to_string_lossy());
            let error = differ(&at(one), &at(&other)).unwrap_err().to_string();
            assert!(error.contains("--record") && error.contains("--output") && error.contains(one), "{error}");
        }
        for (one, other) in [("there", "new"), ("new", "newer"), ("missing/x", "x"), ("ring", "new")] {
            differ(&at(one), &at(other)).unwrap();
        }
        for device in ["/dev/null", "/dev/full"] {
            differ(Path::new(device), Path::new(device)).unwrap();
        }
    }

    #[test]
    fn what_is_read_may_be_read_twice_and_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.jsonl");
        std::fs::write(&file, "recorded").unwrap();
        Files::default().read("the recording", [&file, &file]).must_differ().unwrap();
        let error = Files::default().read("the recording", [&file]).written("--pcap", [&file]).must_differ();
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("the recording ") && error.contains("what is read would be destroyed"), "{error}");
    }
}
