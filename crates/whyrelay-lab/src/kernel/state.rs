//! What a lab has made, on disk, so that an interrupted one can be removed: and only that.
//!
//! Each lab has a file that its owner writes before it makes anything and removes after it removed everything. A lab
//! whose owner is gone is left over. An owner is known by process id and start time, so that a process id that was
//! given out again does not protect anything, and by its lock (flock(2)) on the lab's directory, which ends with it: an
//! owner in another PID namespace has no process id here. What an owner runs to build a lab knows its owner, too: it may
//! go on building when that is gone.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, Uid, eaccess};
use serde::{Deserialize, Serialize};

use super::command::{ip, run};
use super::error::LabError;
use super::namespace::enter;
use super::side::open_to_all;

const DIRECTORY: &str = "/run/whyrelay-lab";
/// What every name begins with.
const PREFIX: &str = "wrl";
/// The variable of the environment by which the programs that build a lab know their owner.
pub(super) const OWNER: &str = "WHYRELAY_LAB_OWNER";
/// How long what was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How often a directory is made that somebody else removes before it is held: who cleans up takes it for left over.
const MAKINGS: u8 = 100;
/// How long somebody may hold a directory who only looks whether it is held, far more than the system calls take.
const LOOKED: Duration = Duration::from_millis(100);

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

    /// Writes it, whole or not at all. As long as what it answers is there, the lab is this process' and nobody removes
    /// it.
    pub(crate) fn write(&self) -> Result<Held, LabError> {
        let failed = |doing: &str| LabError::system(format!("{doing} {}", self.file().display()));
        let held = Held::make(&self.directory).map_err(failed("making the directory of"))?;
        // It may be another user's, who made the first lab: then it is open already, or nothing can be done.
        let _ = open_to_all(Path::new(DIRECTORY));
        let text = serde_json::to_vec(self).map_err(|error| failed("writing")(error.into()))?;
        let draft = self.directory.join("record");
        fs::write(&draft, text).map_err(failed("writing"))?;
        fs::rename(&draft, self.file()).map_err(failed("writing"))?;
        Ok(held)
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

    /// What a lab's file says; `None` where there is none, or it is none of a lab.
    fn read(file: &Path) -> Option<Self> {
        let record: Self = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        // The name of a namespace becomes part of a path.
        let is_name = |name: &String| !name.contains(['/', '\0']);
        let are_names = record.namespaces.iter().chain([&record.id]).all(is_name);
        are_names.then_some(record)
    }

    /// The same lab as it is written down now; `None` when it is gone.
    fn again(&self) -> Option<Self> {
        match Self::read(&self.file()) {
            Some(record) => (record.id == self.id).then_some(record),
            None => Self::unwritten(self.directory.clone()).filter(|record| record.directory.is_dir()),
        }
    }

    /// Whether the process that made it still runs, here or in another PID namespace, or somebody removes it.
    pub fn owner_lives(&self) -> bool {
        self.owner_is_here() || Held::is_held(&self.directory)
    }

    /// Whether the process that made it still runs in this PID namespace.
    fn owner_is_here(&self) -> bool {
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

    /// Ends what runs in its namespaces and removes them, its directory and its file. What is gone already is no error, and
    /// where all of it is, no `ip` is needed.
    ///
    /// # Errors
    /// When something cannot be removed: its file stays then, so that the next [`clean`] finds what is left.
    pub fn remove(&self) -> Result<(), LabError> {
        let own = self.namespaces.iter().filter(|name| name.starts_with(&self.id));
        let names: Vec<&String> = own.filter(|name| super::namespace::path(name).exists()).collect();
        for name in &names {
            forget_orphans(name);
        }
        // Without names nobody would find what still runs in them.
        end_all_in(&names).map_err(|left| LabError::Command {
            command: format!("ending what runs in {} ({})", self.id, self.scenario),
            said: format!("{left} processes are still there\nhint: whyrelay lab clean"),
        })?;
        let mut problem = Ok(());
        for name in names {
            if let Err(error) = ip().and_then(|ip| run(&ip, &["netns", "delete", name], ""))
                && super::namespace::path(name).exists()
            {
                problem = Err(error);
            }
        }
        problem?;
        if self.directory.starts_with(DIRECTORY) {
            let _ = fs::remove_dir_all(&self.directory);
        }
        let _ = fs::remove_file(self.file());
        Ok(())
    }
}

/// The lock on a lab's directory. The kernel gives it up when the process ends, however it does; programs that it runs do
/// not inherit it.
#[derive(Debug)]
pub(crate) struct Held {
    _directory: File,
}

/// What trying to hold a directory came to.
#[derive(Debug)]
enum Take {
    Taken(Held),
    /// Another process holds it.
    Held,
    /// There is none, or it is not for this user to open.
    None,
}

impl Held {
    /// Makes a directory, which is there already or not, and holds it.
    fn make(path: &Path) -> std::io::Result<Self> {
        let made = || -> std::io::Result<Option<Self>> {
            fs::create_dir_all(path)?;
            open_to_all(path)?;
            let directory = File::open(path)?;
            directory.lock()?;
            let own = directory.metadata()?.ino();
            Ok((fs::metadata(path)?.ino() == own).then_some(Self { _directory: directory }))
        };
        // Whoever cleans up may have held it in between, and removed it.
        for _ in 1..MAKINGS {
            match made() {
                Ok(Some(held)) => return Ok(held),
                Ok(None) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {}
                Err(error) => return Err(error),
            }
        }
        made()?.ok_or_else(|| std::io::Error::new(ErrorKind::NotFound, "somebody removes it again and again"))
    }

    /// Whether a process holds a directory. Others may ask at the same time.
    fn is_held(path: &Path) -> bool {
        File::open(path).is_ok_and(|directory| matches!(directory.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Holds a directory that nobody holds for longer than it takes to ask that.
    fn take(path: &Path) -> Take {
        match Self::take_at_once(path) {
            Take::Held => {
                std::thread::sleep(LOOKED);
                Self::take_at_once(path)
            }
            taken => taken,
        }
    }

    fn take_at_once(path: &Path) -> Take {
        let Ok(directory) = File::open(path) else { return Take::None };
        match directory.try_lock() {
            Ok(()) => Take::Taken(Self { _directory: directory }),
            Err(TryLockError::WouldBlock) => Take::Held,
            Err(TryLockError::Error(_)) => Take::None,
        }
    }
}

/// Ends the programs that an owner has left at work, and waits until they are gone: they would make what is being
/// removed.
fn kill_builders(record: &Record) {
    let mark = format!("{OWNER}={}", owner_of(record.pid, record.started));
    let _ = end(|process| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    });
}

/// Ends every process of a kind and waits until they are gone, those included that they begin meanwhile; answers how many
/// are left where that takes longer than [`GONE_WITHIN`].
fn end(is_meant: impl Fn(&Path) -> bool) -> Result<(), usize> {
    let begun = Instant::now();
    loop {
        // What is stopped begins no other: all are stopped before the first is ended. Else one that begins others faster
        // than they can be listed would always have some that are on no list.
        let mut stopped = BTreeSet::new();
        loop {
            let meant = processes().filter(|(pid, process)| !stopped.contains(pid) && is_meant(process));
            let others: Vec<i32> = meant.map(|(pid, _)| pid).collect();
            if others.is_empty() || begun.elapsed() >= GONE_WITHIN {
                break;
            }
            for pid in others {
                let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
                stopped.insert(pid);
            }
        }
        if stopped.is_empty() {
            let left = processes().filter(|(_, process)| is_meant(process)).count();
            return if left == 0 { Ok(()) } else { Err(left) };
        }
        for pid in &stopped {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
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
    let _ = end(|process| {
        let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
        let namespace = fs::read_link(process.join("ns/net")).unwrap_or_default();
        let namespace = namespace.to_string_lossy();
        !namespace.is_empty() && is_in(&record.namespaces, &namespace, &read("mountinfo"))
    });
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

/// Lets a namespace give up the connections of its dead programs soon. While the kernel repeats their last packet, which
/// nobody answers any more, they keep the namespace, with its neighbors: the table of those is the machine's, and the labs
/// of two minutes fill it.
fn forget_orphans(name: &str) {
    // Where it cannot be set they take their time.
    let _ = enter(name, || fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "1").map_err(LabError::system(name)));
}

/// Ends every process in namespaces of these names; answers how many are left.
fn end_all_in(names: &[&String]) -> Result<(), usize> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|namespace| (namespace.dev(), namespace.ino()));
    let meant: BTreeSet<_> = names.iter().filter_map(|name| identity(&super::namespace::path(name))).collect();
    if meant.is_empty() {
        return Ok(());
    }
    end(|process| identity(&process.join("ns/net")).is_some_and(|namespace| meant.contains(&namespace)))
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
        Some(extension) if extension == "json" => Record::read(path),
        _ if path.is_dir() && !path.with_extension("json").exists() => Record::unwritten(path.clone()),
        _ => None,
    };
    let mut records: Vec<Record> = paths.iter().filter_map(record).collect();
    records.sort_by(|one, other| one.id.cmp(&other.id));
    records
}

/// The labs of this process that are there.
pub fn left() -> Vec<Record> {
    all().into_iter().filter(|record| owner_of(record.pid, record.started) == owner()).collect()
}

/// Removes every lab whose owner is gone and that nobody holds; answers those that it removed.
///
/// # Errors
/// When something cannot be removed; the others are, all the same.
pub fn clean() -> Result<Vec<Record>, LabError> {
    let mut removed = Vec::new();
    let mut problem = Ok(());
    for record in all().into_iter().filter(|record| !record.owner_is_here()) {
        match clean_one(&record) {
            Ok(gone) => removed.extend(gone),
            Err(error) => problem = Err(error),
        }
    }
    problem.map(|()| removed)
}

/// Removes a lab whose owner is not here, unless somebody holds it; answers what it was, if it was there.
fn clean_one(listed: &Record) -> Result<Option<Record>, LabError> {
    // Held until it is removed: another that cleans up leaves it alone.
    let _held = match Held::take(&listed.directory) {
        Take::Held => return Ok(None),
        Take::Taken(held) => Some(held),
        Take::None => None,
    };
    // Its owner may have written it down, or removed it, since it was listed.
    let Some(record) = listed.again() else { return Ok(None) };
    if let Some(refused) = record.refuses(Uid::effective()) {
        return Err(refused);
    }
    kill_builders(&record);
    kill_strays(&record);
    record.remove()?;
    Ok(Some(record))
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
    use std::sync::atomic::{AtomicBool, Ordering};

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

    /// As a shell's loop that begins one after the other in the background: a list of them is old when it is read.
    #[test]
    fn what_begins_others_all_the_time_is_ended_with_all_of_them() {
        let mark = format!("WHYRELAY_TEST_STORM={}", std::process::id());
        let meant = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let (name, value) = mark.split_once('=').unwrap();
        let mut storm = std::process::Command::new("/bin/sh")
            .args(["-c", "(while :; do sleep 77 & done) & (while :; do sleep 77 & done) & wait"])
            .env(name, value)
            .spawn()
            .unwrap();
        while processes().filter(|(_, process)| meant(process)).count() < 20 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(end(meant), Ok(()));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(processes().filter(|(_, process)| meant(process)).count(), 0);
        storm.wait().unwrap();
    }

    #[test]
    fn what_another_holds_is_not_taken_until_that_ends() {
        let path = std::env::temp_dir().join(format!("whyrelay-lab-held-{}", std::process::id()));
        let held = Held::make(&path).unwrap();
        assert!(matches!(Held::take(&path), Take::Held));
        drop(held);
        let taken = Held::take(&path);
        assert!(matches!(taken, Take::Taken(_)));
        // Who cleans up removes it while another is about to make it: that one has a new one then.
        let late = std::thread::spawn({
            let path = path.clone();
            move || Held::make(&path)
        });
        std::thread::sleep(Duration::from_millis(50));
        fs::remove_dir(&path).unwrap();
        drop(taken);
        let late = late.join().unwrap().unwrap();
        assert!(matches!(Held::take(&path), Take::Held));
        drop(late);
        fs::remove_dir(&path).unwrap();
        assert!(matches!(Held::take(&path), Take::None));
    }

    #[test]
    fn a_directory_that_is_removed_before_it_is_held_is_made_again() {
        let path = std::env::temp_dir().join(format!("whyrelay-lab-removed-{}", std::process::id()));
        let over = AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = fs::remove_dir(&path);
                    std::thread::sleep(Duration::from_micros(20));
                }
            });
            let made: Vec<_> = (0..500).map(|_| Held::make(&path).map(drop)).collect();
            over.store(true, Ordering::Relaxed);
            made
        });
        let failed = made.iter().find(|made| made.is_err());
        assert!(failed.is_none(), "{failed:?}");
        let _ = fs::remove_dir(&path);
    }

    #[test]
    fn who_only_looks_whether_a_lab_is_held_keeps_nobody_from_taking_it() {
        let path = std::env::temp_dir().join(format!("whyrelay-lab-looked-{}", std::process::id()));
        drop(Held::make(&path).unwrap());
        let looking = File::open(&path).unwrap();
        looking.lock_shared().unwrap();
        let looked = std::thread::spawn(move || {
            std::thread::sleep(LOOKED / 10);
            drop(looking);
        });
        assert!(matches!(Held::take(&path), Take::Taken(_)));
        looked.join().unwrap();
        fs::remove_dir(&path).unwrap();
    }

    /// The process id of an owner in another PID namespace is nobody's here.
    #[test]
    fn a_lab_that_is_held_has_an_owner_whatever_its_process_id_says() {
        let directory = std::env::temp_dir().join(format!("whyrelay-lab-owner-{}", std::process::id()));
        let record = Record { pid: 1, started: 1, directory, ..Record::new("wrl-test".to_owned(), "s", Vec::new()) };
        let held = Held::make(&record.directory).unwrap();
        assert!(record.owner_lives());
        drop(held);
        assert!(!record.owner_lives());
        fs::remove_dir(&record.directory).unwrap();
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
    fn what_is_left_is_this_process_own_until_it_is_removed() {
        if !is_ours() {
            return;
        }
        let own = Record::new(id(u32::MAX), "s", Vec::new());
        let mut other = Record::new(format!("{PREFIX}{}-{:x}-0", own.pid, own.started - 1), "s", Vec::new());
        other.started -= 1;
        own.write().unwrap();
        other.write().unwrap();
        let left = left();
        own.remove().unwrap();
        other.remove().unwrap();
        assert!(left.contains(&own) && !left.contains(&other), "{left:?}");
        assert!(!super::left().contains(&own));
    }

    /// Its owner lives while labs are listed, and is gone when it comes to this one.
    #[test]
    fn what_was_written_down_after_a_lab_was_listed_is_removed_too() {
        if !is_ours() {
            return;
        }
        let (pid, began) = (std::process::id(), started(std::process::id()).unwrap());
        let id = format!("{PREFIX}{pid}-{:x}-{}", began - 1, u32::MAX - 1);
        let listed = Record::unwritten(PathBuf::from(DIRECTORY).join(&id)).unwrap();
        let names = vec![format!("{id}-a"), format!("{id}-b")];
        let written = Record { started: began - 1, ..Record::new(id, "two-homes", names) };
        drop(written.write().unwrap());
        let removed = clean_one(&listed).unwrap();
        assert_eq!(removed, Some(written));
        assert_eq!(clean_one(&listed).unwrap(), None, "it is gone");
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
