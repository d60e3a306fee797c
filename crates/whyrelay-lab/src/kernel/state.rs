//! What a lab has made, on disk, so that an interrupted one can be removed: and only that.
//!
//! Each lab has a file that its owner writes before it makes anything and removes after it removed everything. A lab
//! whose owner is gone is left over. An owner is known by process id and start time, so that a process id that was
//! given out again does not protect anything. What an owner runs to build a lab knows its owner, too: it may go on
//! building when that is gone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, Uid, eaccess};
use serde::{Deserialize, Serialize};

use super::command::{ip, run};
use super::error::LabError;

const DIRECTORY: &str = "/run/whyrelay-lab";
/// What every name begins with.
const PREFIX: &str = "wrl";
/// The variable of the environment by which the programs that build a lab know their owner.
pub(super) const OWNER: &str = "WHYRELAY_LAB_OWNER";
/// How long what was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// One lab's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The lab's id, which every name begins with.
    pub id: String,
    /// The process that made it.
    pub pid: u32,
    /// When that process began, in the kernel's clock ticks since boot.
    pub started: u64,
    /// The scenario's name.
    pub scenario: String,
    /// Its namespaces.
    pub namespaces: Vec<String>,
    /// Its directory for files of programs.
    pub directory: PathBuf,
}

/// This process. The moment when it began is part of its name: a later process with the same id makes labs, and
/// namespaces, of other names, and clearing up after the one touches nothing of the other.
pub(super) fn owner() -> &'static str {
    static OWN: OnceLock<String> = OnceLock::new();
    OWN.get_or_init(|| {
        let pid = std::process::id();
        owner_of(pid, started(pid).unwrap_or_default())
    })
}

fn owner_of(pid: u32, started: u64) -> String {
    format!("{pid}-{started:x}")
}

/// The id of this process' lab of a number.
pub(super) fn id(number: u32) -> String {
    format!("{PREFIX}{}-{number}", owner())
}

impl Record {
    /// What this process is about to make.
    pub(crate) fn new(id: String, scenario: &str, namespaces: Vec<String>) -> Self {
        let pid = std::process::id();
        let directory = PathBuf::from(DIRECTORY).join(&id);
        let started = started(pid).unwrap_or_default();
        Self { id, pid, started, scenario: scenario.to_owned(), namespaces, directory }
    }

    fn file(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(format!("{}.json", self.id))
    }

    /// Writes it, whole or not at all.
    pub(crate) fn write(&self) -> Result<(), LabError> {
        let failed = |doing: &str| LabError::system(format!("{doing} {}", self.file().display()));
        fs::create_dir_all(&self.directory).map_err(failed("making the directory of"))?;
        let text = serde_json::to_vec(self).map_err(|error| failed("writing")(error.into()))?;
        let draft = self.directory.join("record");
        fs::write(&draft, text).map_err(failed("writing"))?;
        fs::rename(&draft, self.file()).map_err(failed("writing"))
    }

    /// A lab that was begun and not yet written down, by its directory.
    fn unwritten(directory: PathBuf) -> Option<Self> {
        let id = directory.file_name()?.to_str()?.to_owned();
        let (pid, rest) = id.strip_prefix(PREFIX)?.split_once('-')?;
        let (started, number) = rest.split_once('-')?;
        let (pid, started) = (pid.parse().ok()?, u64::from_str_radix(started, 16).ok()?);
        number.parse::<u32>().ok()?;
        let scenario = "nothing of it was made".to_owned();
        Some(Self { id, pid, started, scenario, namespaces: Vec::new(), directory })
    }

    /// Whether the process that made it still runs.
    pub fn owner_lives(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Why a user cannot remove it; `None` when they can.
    fn refuses(&self, user: Uid) -> Option<LabError> {
        let owner = fs::metadata(self.file()).or_else(|_| fs::metadata(&self.directory)).ok()?.uid();
        (!user.is_root() && user.as_raw() != owner).then(|| LabError::NotAllowed {
            what: format!("the lab {} ({}) was left by another user ({owner})", self.id, self.scenario),
            hint: "run it with sudo",
        })
    }

    /// Ends what runs in its namespaces and removes them, its directory and its file. What is gone already is no error.
    pub fn remove(&self) -> Result<(), LabError> {
        let ip = ip()?;
        let mut problem = Ok(());
        for name in self.namespaces.iter().filter(|name| name.starts_with(&self.id)) {
            if !super::namespace::path(name).exists() {
                continue;
            }
            kill_all(name);
            if let Err(error) = run(&ip, &["netns", "delete", name], "")
                && super::namespace::path(name).exists()
            {
                problem = Err(error);
            }
        }
        if self.directory.starts_with(DIRECTORY) {
            let _ = fs::remove_dir_all(&self.directory);
        }
        if problem.is_ok() {
            let _ = fs::remove_file(self.file());
        }
        problem
    }
}

/// Ends the programs that an owner has left at work, and waits until they are gone: they would make what is being
/// removed.
fn kill_builders(record: &Record) {
    let mark = format!("{OWNER}={}", owner_of(record.pid, record.started));
    let begun = Instant::now();
    while begun.elapsed() < GONE_WITHIN {
        let builds = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let left: Vec<i32> = processes().filter(|(_, process)| builds(process)).map(|(pid, _)| pid).collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every other process, with its directory.
fn processes() -> impl Iterator<Item = (i32, PathBuf)> {
    let own = std::process::id().cast_signed();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(move |process| {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok()).filter(|pid| *pid != own)?;
        Some((pid, process.path()))
    })
}

/// Ends the processes in a lab's namespaces whose names stand in their own file system alone: what `ip netns exec` runs
/// has one, and a lab that is made there leaves nothing but empty names outside.
fn kill_strays(record: &Record) {
    for (pid, process) in processes() {
        let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
        let namespace = fs::read_link(process.join("ns/net")).unwrap_or_default();
        let namespace = namespace.to_string_lossy();
        if !namespace.is_empty() && is_in(&record.namespaces, &namespace, &read("mountinfo")) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Whether a network namespace, `net:[…]`, has one of these names by a table of mounts (proc(5), mountinfo). As long as
/// it is mounted there, its number is not given to another.
fn is_in(names: &[String], namespace: &str, mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, at) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let name = at.rsplit_once("/netns/").map_or("", |(_, name)| name);
        root == namespace && names.iter().any(|known| known == name)
    })
}

/// Ends every process in a namespace.
fn kill_all(name: &str) {
    let Ok(ip) = ip() else { return };
    let Ok(list) = run(&ip, &["netns", "pids", name], "") else { return };
    let own = std::process::id().cast_signed();
    for pid in list.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid != own) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Whether this user may write down labs where they are written down.
pub(super) fn is_ours() -> bool {
    may_write(Path::new(DIRECTORY))
}

/// Whether this user may make something in a directory. Asked, and not tried: where this process is killed meanwhile,
/// what it tried would be left.
fn may_write(directory: &Path) -> bool {
    fs::create_dir_all(directory).is_ok() && eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// Every lab on this machine that has a file, or only the directory that it has before.
pub fn all() -> Vec<Record> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return Vec::new() };
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let record = |path: &PathBuf| match path.extension() {
        Some(extension) if extension == "json" => serde_json::from_slice(&fs::read(path).ok()?).ok(),
        _ if path.is_dir() && !path.with_extension("json").exists() => Record::unwritten(path.clone()),
        _ => None,
    };
    let mut records: Vec<Record> = paths
        .iter()
        .filter_map(record)
        // The name of a namespace becomes part of a path.
        .filter(|record: &Record| record.namespaces.iter().chain([&record.id]).all(|name| !name.contains(['/', '\0'])))
        .collect();
    records.sort_by(|one, other| one.id.cmp(&other.id));
    records
}

/// Removes every lab whose owner is gone; answers those that it removed.
///
/// # Errors
/// When something cannot be removed; the others are, all the same.
pub fn clean() -> Result<Vec<Record>, LabError> {
    let mut removed = Vec::new();
    let mut problem = Ok(());
    for record in all().into_iter().filter(|record| !record.owner_lives()) {
        if let Some(refused) = record.refuses(Uid::effective()) {
            problem = Err(refused);
            continue;
        }
        kill_builders(&record);
        kill_strays(&record);
        match record.remove() {
            Ok(()) => removed.push(record),
            Err(error) => problem = Err(error),
        }
    }
    problem.map(|()| removed)
}

/// When a process began; none when there is none, or only its remains.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // pid (name) state … the 22nd is the start; the name may hold anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_that_was_given_out_again_owns_nothing() {
        let mut record = Record::new("wrl-test".to_owned(), "s", Vec::new());
        assert!(record.owner_lives());
        record.started += 1;
        assert!(!record.owner_lives());
    }

    #[test]
    fn a_lab_of_an_earlier_process_with_the_same_id_has_another_name() {
        let pid = std::process::id();
        let (id, began) = (id(7), started(pid).unwrap());
        assert_eq!(id, format!("wrl{pid}-{began:x}-7"));
        assert_ne!(id, format!("wrl{pid}-{:x}-7", began - 1));
    }

    #[test]
    fn a_lab_that_was_only_begun_is_known_by_its_directory() {
        let own = Record::unwritten(PathBuf::from(DIRECTORY).join(id(3))).unwrap();
        assert!(own.owner_lives());
        assert_eq!((own.id, own.pid), (id(3), std::process::id()));
        for other in ["try-17", "wrl17", "wrl17-ab", "wrl17-ab-c", "wrlx-ab-1", "wrl17-xy-1"] {
            assert_eq!(Record::unwritten(PathBuf::from(DIRECTORY).join(other)), None, "{other}");
        }
    }

    #[test]
    fn asking_whether_labs_may_be_written_down_makes_nothing() {
        let directory = std::env::temp_dir().join(format!("whyrelay-lab-state-{}", std::process::id()));
        assert!(may_write(&directory), "it is made");
        let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        fs::File::open(&directory).unwrap().set_modified(long_ago).unwrap();
        assert!(may_write(&directory));
        // Whatever is made or removed in it would change this.
        assert_eq!(fs::metadata(&directory).unwrap().modified().unwrap(), long_ago);
        fs::remove_dir(&directory).unwrap();
        assert!(!may_write(Path::new("/proc/whyrelay-lab")));
    }

    #[test]
    fn a_process_belongs_to_a_lab_by_its_own_table_of_mounts() {
        let mounts = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
                      700 31 0:4 net:[4026532281] /run/netns/wrl1-0-a rw shared:5 - nsfs nsfs rw\n\
                      701 31 0:4 net:[4026532400] /run/netns/mine rw shared:5 - nsfs nsfs rw\n";
        let names = ["wrl1-0-a".to_owned(), "wrl1-0-b".to_owned()];
        assert!(is_in(&names, "net:[4026532281]", mounts));
        for other in ["net:[4026532400]", "net:[4026531840]", ""] {
            assert!(!is_in(&names, other, mounts), "{other}");
        }
        assert!(!is_in(&names, "net:[4026532281]", ""));
    }
}
