//! The files of one side of a session in a lab, which another user may write.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path as FilePath, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, chown};

use super::error::LabError;
use crate::scenario::Topology;
use crate::scenario::file::Path;

/// What each side runs: the first offers.
pub(super) const VERBS: [&str; 2] = ["offer", "answer"];
/// The file of a side's recording.
pub(super) const RECORDING: &str = "recording.jsonl";
/// The end of the name of the file of a side's account.
pub(super) const ACCOUNT: &str = "account.json";
/// The end of the name of the file of what a side says while it runs.
pub(super) const PROGRESS: &str = "progress.log";
/// The most that is read of a file that a session writes, in bytes: a hundred times the largest recording of a scenario that
/// comes with whyrelay, and little enough for memory.
const READ_AT_MOST: u64 = 256 << 20;

/// The directory of a side's recording, which is its user's: no other file is in it.
pub(super) fn directory_of(lab: &FilePath, topology: &Topology, index: usize) -> PathBuf {
    lab.join(&topology.hosts[index].name)
}

/// The files of one side.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) name: String,
    /// Of [`VERBS`].
    pub(super) verb: &'static str,
    /// The user of its session.
    uid: u32,
    /// The lab's own, in which no session's user makes anything.
    lab: PathBuf,
    /// Its session's user's.
    directory: PathBuf,
}

impl Side {
    /// Its directory is given to its session's user.
    pub(super) fn new(lab: &FilePath, topology: &Topology, index: usize) -> Result<Self, LabError> {
        let name = topology.hosts[index].name.clone();
        let directory = directory_of(lab, topology, index);
        let failed = |doing: &str| LabError::system(format!("{doing} {}", directory.display()));
        fs::create_dir_all(&directory).map_err(failed("making"))?;
        open_to_all(&directory).map_err(failed("opening to its user"))?;
        let uid = topology.sessions[index].uid;
        if uid != 0 {
            chown(&directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))
                .map_err(|errno| failed("giving away")(io::Error::from(errno)))?;
        }
        Ok(Self { name, verb: VERBS[index], uid, lab: lab.to_owned(), directory })
    }

    /// Whether its session is connected to the signaling server.
    pub(super) fn has_joined(&self) -> bool {
        self.text(PROGRESS).is_ok_and(|said| said.contains("signaling: connected"))
    }

    /// A file that its session writes and this process makes: beside the directory of its user, who could put a link in
    /// its place there.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.lab.join(format!("{}.{name}", self.name))
    }

    fn text(&self, name: &str) -> Result<String, LabError> {
        let file = self.file(name);
        read_of(0, &file, READ_AT_MOST).map_err(LabError::system(format!("reading {}", file.display())))
    }

    pub(super) fn recording(&self) -> Result<String, LabError> {
        let file = self.directory.join(RECORDING);
        read_of(self.uid, &file, READ_AT_MOST).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.said("it made no recording"),
            _ => LabError::system(format!("reading {}", file.display()))(error),
        })
    }

    /// The path of this side's own account.
    pub(super) fn path(&self) -> Result<Path, LabError> {
        let account: serde_json::Value =
            serde_json::from_str(&self.text(ACCOUNT)?).map_err(|_| self.said("its account is no JSON object"))?;
        match account["path"].as_str() {
            Some("direct") => Ok(Path::Direct),
            Some("relayed") => Ok(Path::Relayed),
            Some("failed") => Ok(Path::Failed),
            _ => Err(self.said("its account names no path")),
        }
    }

    /// Whether the path that it has told of last is direct, if it has told of one.
    pub(super) fn is_direct(&self) -> Option<bool> {
        let said = self.text(PROGRESS).unwrap_or_default();
        said.lines().rev().find_map(|line| line.split_once(" path: ").map(|(_, path)| !path.contains("relay")))
    }

    pub(super) fn said(&self, problem: &str) -> LabError {
        let said = self.text(PROGRESS).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(12).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        LabError::Session {
            who: format!("whyrelay {} on {}", self.verb, self.name),
            said: format!("{problem}\n{}", last.join("\n")),
        }
    }
}

/// Reads a file that a user has made in a directory of their own, up to a number of bytes. What that one could not read, or
/// what never ends, is not read for them: a link, a pipe, another's file.
fn read_of(uid: u32, file: &FilePath, at_most: u64) -> io::Result<String> {
    // Without O_NONBLOCK opening a pipe waits for somebody who writes into it.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let open = OpenOptions::new().read(true).custom_flags(flags.bits()).open(file)?;
    let found = open.metadata()?;
    if !found.is_file() || found.nlink() > 1 || (uid != 0 && found.uid() != uid) {
        return Err(io::Error::other("it is no plain file of its session's user"));
    }
    let mut text = String::new();
    // It may grow meanwhile.
    let length = open.take(at_most + 1).read_to_string(&mut text)?;
    if length as u64 > at_most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {at_most} bytes")));
    }
    Ok(text)
}

/// Lets every user go through a directory, whatever the umask is.
pub(super) fn open_to_all(directory: &FilePath) -> std::io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::super::run::maps_every_user;
    use super::super::run::tests::two_users;
    use super::*;

    /// A directory of this test's own.
    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("whyrelay-lab-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn what_root_makes_is_not_in_the_directory_of_a_sessions_user() {
        if !Uid::effective().is_root() || !maps_every_user() {
            return;
        }
        let lab = directory("sides");
        let side = Side::new(&lab, &two_users(), 0).unwrap();
        assert_eq!(fs::metadata(&side.directory).unwrap().uid(), 1000);
        for name in [ACCOUNT, PROGRESS] {
            let file = side.file(name);
            assert!(!file.starts_with(&side.directory), "{}", file.display());
            assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().uid(), 0);
        }
        // A link to a file of root's, where root reads what the session has recorded.
        let secret = lab.join("secret");
        fs::write(&secret, "{}").unwrap();
        std::os::unix::fs::symlink(&secret, side.directory.join(RECORDING)).unwrap();
        assert!(matches!(side.recording(), Err(LabError::System { .. })), "{:?}", side.recording());
        fs::remove_dir_all(&lab).unwrap();
    }

    #[test]
    fn only_a_plain_file_of_the_sessions_user_is_read_as_its_recording() {
        let own = directory("recordings");
        let file = |name: &str| own.join(name);
        let uid = Uid::effective().as_raw();
        fs::write(file("plain"), "0123456789").unwrap();
        assert_eq!(read_of(uid, &file("plain"), 10).unwrap(), "0123456789");
        let long = read_of(uid, &file("plain"), 9).unwrap_err();
        assert_eq!(long.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_of(uid, &file("none"), 10).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink(file("plain"), file("link")).unwrap();
        // Read without O_NONBLOCK, it would hold this test for ever.
        mkfifo(&file("pipe"), Mode::S_IRWXU).unwrap();
        for name in ["link", "pipe", "."] {
            assert!(read_of(uid, &file(name), 10).is_err(), "{name}");
        }
        assert!(read_of(uid + 1, &file("plain"), 10).is_err(), "another's");
        fs::hard_link(file("plain"), file("second name")).unwrap();
        assert!(read_of(uid, &file("second name"), 10).is_err(), "it may be another's by another name");
        fs::remove_dir_all(&own).unwrap();
    }
}
