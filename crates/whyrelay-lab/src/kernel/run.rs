//! Running a scenario for real: `whyrelay serve`, `answer` and `offer` in the namespaces, and what came out of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path as FilePath, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use whyrelay_core::engine::turn_server::SharedSecret;
use whyrelay_core::report::Report;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Event, EventKind, Vantage};
use whyrelay_core::trace::recording::Recording;

use super::cut::{Cut, data_passed};
use super::error::LabError;
use super::lab::Lab;
use super::plan::{Plan, RouterChoice};
use super::router::Clock;
use super::services::{AUTHORITY, PASSWORD, Running, SECRET, Services, USER, signal_beside};
use super::side::{ACCOUNT, PROGRESS, RECORDING, Side, VERBS, directory_of};
use super::{conntrack, discovery, host, relayed, services, tun};
use crate::limits;
use crate::run::Observed;
use crate::scenario::file::{Certificate, Credentials, Path, WorldKind};
use crate::scenario::{STUN_PORT, Topology};

/// How long a session may take in all, beside the silence that it asks for. One that reaches it is broken: its own limits
/// are far shorter.
const LIMIT: Duration = Duration::from_secs(90);
/// How long the answerer is waited for until it is in the room.
const JOINED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(20);

/// How scenarios are run in namespaces.
#[derive(Debug)]
pub struct Conditions<'a> {
    /// whyrelay's own file.
    pub program: &'a FilePath,
    /// Who translates.
    pub routers: RouterChoice,
    /// Makes the certificates of TURN over TLS; scenarios that need one are skipped without.
    pub certify: Option<Certify>,
    /// Set when everything is to end.
    pub interrupted: &'a AtomicBool,
}

/// Makes a certificate for an address, as it should be or with a fault.
pub type Certify = fn(Certificate, IpAddr) -> std::io::Result<Certified>;

/// A certificate in PEM.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The authority that the peers trust.
    pub authority: String,
}

/// What came out, and how long the network took to build.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What came out.
    pub observed: Observed,
    /// From nothing until the network was there and the server served.
    pub up_after: Duration,
}

/// Why the namespace world cannot run a scenario so that what comes out is what the scenario expects; `None` when it can.
pub fn cannot(topology: &Topology, conditions: &Conditions<'_>) -> Option<String> {
    unable(topology, conditions).or_else(|| without_tunnels(topology).next())
}

/// Tunnels of which only something in their place can be made.
fn without_tunnels(topology: &Topology) -> impl Iterator<Item = String> {
    let sinks = topology.hosts.iter().flat_map(host::sinks);
    // There is a device in its place, which looks like any other.
    sinks.filter_map(|sink| Some(format!("{sink} would be no tunnel in the eyes of programs: {}", tun::refused()?)))
}

/// Why the namespace world cannot build a scenario at all.
fn unable(topology: &Topology, conditions: &Conditions<'_>) -> Option<String> {
    if let Some(what) = left_out(topology).into_iter().next() {
        return Some(what);
    }
    match Plan::of(topology, conditions.routers) {
        Err(LabError::Unsupported(what)) => return Some(what),
        Ok(plan) if plan.needs_tun() => {
            if let Some(why) = tun::refused() {
                return Some(why);
            }
        }
        _ => {}
    }
    let faults = &topology.server.faults;
    if faults.certificate.is_some() && conditions.certify.is_none() {
        return Some("TURN over TLS with a certificate".to_owned());
    }
    let others = topology.sessions.iter().any(|session| session.uid != 0);
    if others && !maps_every_user() {
        return Some("another user than this one: that takes root".to_owned());
    }
    others.then(|| closed_to_users(conditions.program)).flatten()
}

/// What of a scenario is not in the network that is built of it.
fn left_out(topology: &Topology) -> Vec<String> {
    let mut left_out = Vec::new();
    if !topology.worlds.contains(&WorldKind::Kernel) {
        left_out.push("the scenario is for virtual time only".to_owned());
    }
    left_out.extend(limits::exceeded(topology));
    if topology.hosts.iter().any(|host| host.conntrack_full)
        && let Some(why) = conntrack::refused()
    {
        left_out.push(format!("a full table of connections: {why}"));
    }
    let by_user = || topology.hosts.iter().any(|host| host.rules.iter().any(|rule| rule.uidrange.is_some()));
    if !maps_every_user() && by_user() {
        left_out.push("a policy rule about other users than this one: that takes root".to_owned());
    }
    left_out
}

/// What of a scenario a program on a host does not meet, whose network is built all the same, or has to do by itself: one
/// line for each.
pub fn missing_inside(topology: &Topology, host: &str) -> Vec<String> {
    let mut missing = left_out(topology);
    missing.extend(without_tunnels(topology));
    let index = topology.hosts.iter().position(|known| known.name == host);
    if let Some(session) = index.and_then(|index| topology.sessions.get(index)) {
        if session.uid != 0 {
            let uid = session.uid;
            missing.push(format!("the user {uid}, as whom {host}'s session runs: setpriv --reuid={uid} --regid={uid} --clear-groups PROGRAM"));
        }
        if !session.starts.is_zero() {
            let late = session.starts.as_secs_f64();
            missing.push(format!("the scenario starts {host} {late} s late; wait that long yourself"));
        }
    }
    missing
}

/// What is run in a topology's network: the commands of its programs, when those of the peers start, and what becomes of
/// what they say. The kind of a certificate is told as it is; who makes it stands in [`Conditions::certify`]. The network
/// itself is in [`Plan::steps`].
pub fn told(topology: &Topology) -> Vec<String> {
    let mut told = services::told(topology);
    for (index, after) in schedule(topology) {
        // In this form it tells its user, too.
        let command = command(FilePath::new("whyrelay"), FilePath::new(""), topology, index);
        told.push(format!("after {after:?}: {command:#?}"));
    }
    told
}

/// Whether every user id means something here; in a user namespace of our own only one does.
pub(super) fn maps_every_user() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2).and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count > 1)
}

/// Runs a scenario in namespaces of its own, which are gone afterwards.
///
/// # Errors
/// When the network cannot be built; in [`LabError::Inside`] when something goes wrong in it, as a program that does not do
/// its work. What a session finds wrong is no error.
pub fn run_kernel(topology: &Topology, conditions: &Conditions<'_>) -> Result<Ran, LabError> {
    if let Some(what) = unable(topology, conditions) {
        return Err(LabError::Unsupported(what));
    }
    let began = Instant::now();
    let lab = Lab::up_unless(Plan::of(topology, conditions.routers)?, conditions.interrupted)?;
    let ran = run_in(&lab, topology, conditions, began);
    ran.map_err(|error| error.or_interrupted(conditions.interrupted).inside())
}

/// The same in a lab that is up.
fn run_in(lab: &Lab, topology: &Topology, conditions: &Conditions<'_>, began: Instant) -> Result<Ran, LabError> {
    let asked = Instant::now();
    let discovered = discovery::discover(lab, topology, conditions)?;
    let asked = asked.elapsed();
    let services = Services::start(lab, topology, conditions)?;
    let up_after = began.elapsed().saturating_sub(asked);
    let sides = [Side::new(lab.directory(), topology, 0)?, Side::new(lab.directory(), topology, 1)?];
    let mut cut = (topology.expect.path == Path::Direct).then(|| Cut::new(lab, topology));
    let sessions = start(lab, topology, conditions, &sides, cut.as_ref())?;
    let limit = LIMIT + limits::asked_for(topology).0;
    wait(lab, conditions, &sides, sessions, cut.as_mut(), limit)?;
    let relayed_data = services.relayed_data(lab)?;
    let over_tls = services.relayed_over_tls(lab)?;
    let recordings: Vec<String> = sides.iter().map(Side::recording).collect::<Result<_, _>>()?;
    let paths = [sides[0].path()?, sides[1].path()?];
    drop(services);
    let observed = observe(recordings, paths, [relayed_data, over_tls], cut.as_ref().and_then(Cut::at))?;
    Ok(Ran { observed: Observed { discovered, ..observed }, up_after })
}

/// whyrelay's own file, as a session's user can run it.
struct Program {
    path: PathBuf,
    /// Held open until it is run; that program has it, too.
    _open: Option<OwnedFd>,
}

impl Program {
    /// By its path; where another user is to run it, as an open file: the directories on the way may be closed to that one
    /// (a home, `/root`).
    fn of(file: &FilePath, uid: u32) -> Result<Self, LabError> {
        if uid == 0 {
            return Ok(Self { path: file.to_owned(), _open: None });
        }
        let failed = || LabError::system(format!("opening {}", file.display()));
        // Without O_CLOEXEC: the path that is run is that of the new process' own descriptor.
        let open = open(file, OFlag::O_RDONLY, Mode::empty()).map_err(|errno| failed()(std::io::Error::from(errno)))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        Ok(Self { path, _open: Some(open) })
    }
}

/// Why the users of a scenario's sessions cannot run whyrelay's own file.
fn closed_to_users(program: &FilePath) -> Option<String> {
    let mode = fs::metadata(program).ok()?.mode();
    let said = || format!("another user than this one: chmod o+x {}", program.display());
    (mode & 0o001 == 0).then(said)
}

/// Which side starts when, in order.
fn schedule(topology: &Topology) -> [(usize, Duration); 2] {
    // The answerer waits in the room when both start at once.
    let mut order = [1, 0].map(|index| (index, topology.sessions[index].starts));
    order.sort_by_key(|(_, starts)| *starts);
    order
}

/// Starts both sides, each at its time.
fn start(
    lab: &Lab,
    topology: &Topology,
    conditions: &Conditions<'_>,
    sides: &[Side; 2],
    cut: Option<&Cut<'_>>,
) -> Result<[Running; 2], LabError> {
    let mut started = [None, None];
    let began = Instant::now();
    for (index, after) in schedule(topology) {
        while began.elapsed() < after {
            LabError::if_set(conditions.interrupted)?;
            std::thread::sleep(LOOK);
        }
        let program = Program::of(conditions.program, topology.sessions[index].uid)?;
        let mut command = command(&program.path, lab.directory(), topology, index);
        let open = |name: &str| {
            let file = sides[index].file(name);
            File::create(&file).map_err(LabError::system(format!("making {}", file.display())))
        };
        command.stdin(Stdio::null()).stdout(open(ACCOUNT)?).stderr(open(PROGRESS)?).process_group(0);
        if let Some(cut) = cut {
            command.arg("--measure-after").arg(cut.file());
        }
        let child = lab.enter(&sides[index].name, || {
            command.spawn().map_err(LabError::system(format!("starting whyrelay {}", sides[index].verb)))
        })?;
        started[index] = Some(Running(child));
        // Otherwise the offer would have to be sent again, behind whatever the scenario delays.
        if index == 1 && topology.sessions[0].starts == after {
            let until = Instant::now() + JOINED_WITHIN;
            while !sides[index].has_joined() && Instant::now() < until {
                LabError::if_set(conditions.interrupted)?;
                std::thread::sleep(LOOK);
            }
        }
    }
    match started {
        [Some(a), Some(b)] => Ok([a, b]),
        // Both were started above.
        _ => Err(LabError::Interrupted),
    }
}

/// What the scenario says of a peer's session, as arguments of `whyrelay offer` and `answer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionArguments {
    /// UDP only, the sockets, what is left out, and the servers with their user name. None of them has a blank.
    pub arguments: Vec<String>,
    /// The URL of signaling, beside the network: `--signal`, or `WHYRELAY_SIGNAL`.
    pub signal: String,
    /// `TURN_PASSWORD`, where there is a user name.
    pub password: Option<String>,
}

impl SessionArguments {
    /// Those of a peer: 0 is a, 1 is b.
    pub fn of(lab: &Lab, topology: &Topology, index: usize) -> Self {
        Self::with_files_in(lab.directory(), topology, index, Clock::new().now())
    }

    /// Those of every peer. Where credentials depend on the time, all of them have the same.
    pub fn of_all(lab: &Lab, topology: &Topology) -> Vec<Self> {
        Self::all_with_files_in(lab.directory(), topology, Clock::new().now())
    }

    fn all_with_files_in(directory: &FilePath, topology: &Topology, now: Timestamp) -> Vec<Self> {
        (0..topology.sessions.len()).map(|index| Self::with_files_in(directory, topology, index, now)).collect()
    }

    /// Those of a peer with the lab's files in a directory, at a moment.
    fn with_files_in(directory: &FilePath, topology: &Topology, index: usize, now: Timestamp) -> Self {
        let wanted = &topology.sessions[index];
        let mut own = Self { signal: signal_beside(), ..Self::default() };
        own.add(["--no-tcp", "--port", &wanted.port.to_string()]);
        if let Some(mark) = wanted.mark {
            own.add(["--mark", &format!("{mark:#x}")]);
        }
        for (flag, said) in
            [("--relay-only", wanted.relay_only), ("--no-turn", wanted.no_turn), ("--patient", wanted.patient)]
        {
            if said {
                own.add([flag]);
            }
        }
        if wanted.map_port {
            own.add(["--try", "mapping"]);
        }
        if !wanted.silence.is_zero() {
            own.add(["--lifetime", &format!("{}ms", wanted.silence.as_millis())]);
        }
        match topology.server.faults.certificate {
            Some(_) => own.tls_server(directory, topology),
            None => own.servers(topology, wanted.no_turn, now),
        }
        own
    }

    fn add<const N: usize>(&mut self, arguments: [&str; N]) {
        self.arguments.extend(arguments.map(str::to_owned));
    }

    /// TURN over TLS, and nothing else.
    fn tls_server(&mut self, directory: &FilePath, topology: &Topology) {
        let host = topology.tls_address();
        self.add(["--turn", &format!("turns:{host}?transport=tcp"), "--turn-user", USER]);
        self.add(["--tls-ca", &directory.join(AUTHORITY).display().to_string()]);
        self.password = Some(PASSWORD.to_owned());
    }

    /// The servers that the peers of the virtual world are told, with credentials as the scenario has them.
    fn servers(&mut self, topology: &Topology, no_turn: bool, now: Timestamp) {
        let faults = &topology.server.faults;
        let mut families = Vec::new();
        for cidr in &topology.server.addresses {
            let host = match cidr.address {
                IpAddr::V4(ip) => format!("{ip}:{STUN_PORT}"),
                IpAddr::V6(ip) => format!("[{ip}]:{STUN_PORT}"),
            };
            self.add(["--stun", &format!("stun:{host}")]);
            // TURN by the first address of each family; further ones are for finding out how a NAT maps. Without
            // credentials the peers hear of it from the server alone: whyrelay refuses to be told so.
            let missing = faults.credentials == Credentials::Missing;
            if families.contains(&cidr.address.is_ipv4()) || !faults.turn || no_turn || missing {
                continue;
            }
            families.push(cidr.address.is_ipv4());
            if faults.udp {
                self.add(["--turn", &format!("turn:{host}")]);
            }
            if faults.tcp {
                self.add(["--turn", &format!("turn:{host}?transport=tcp")]);
            }
        }
        let (user, password) = match faults.credentials {
            Credentials::Right | Credentials::Missing => (USER.to_owned(), PASSWORD.to_owned()),
            Credentials::Wrong => (USER.to_owned(), "wrong".to_owned()),
            Credentials::Expired => match SharedSecret::new(SECRET) {
                Some(secret) => {
                    let hour = Duration::from_secs(3600).as_micros() as u64;
                    let past = Timestamp::from_micros(now.as_micros().saturating_sub(hour));
                    let limited = secret.credentials(USER, past);
                    (limited.username, limited.password)
                }
                None => (USER.to_owned(), "wrong".to_owned()),
            },
        };
        if !families.is_empty() {
            self.add(["--turn-user", &user]);
            self.password = Some(password);
        }
    }
}

/// The command of a side's session, but for where its input and its output are.
fn command(program: &FilePath, lab: &FilePath, topology: &Topology, index: usize) -> Command {
    let wanted = &topology.sessions[index];
    let mut command = Command::new(program);
    let SessionArguments { arguments, signal, password } =
        SessionArguments::with_files_in(lab, topology, index, Clock::new().now());
    command.arg(VERBS[index]).args(["--signal", &signal, "--room", "lab", "--format", "json"]);
    let milliseconds = |limit: Duration| format!("{}ms", limit.as_millis());
    let (wait, timeout) = (milliseconds(limits::wait(topology, index)), milliseconds(limits::TIMEOUT));
    command.args(["--wait", &wait, "--timeout", &timeout, "--color", "never"]);
    command.arg("--record").arg(directory_of(lab, topology, index).join(RECORDING));
    command.args(arguments);
    if let Some(password) = password {
        command.env("TURN_PASSWORD", password);
    }
    if wanted.uid != 0 {
        // Nothing of root's stays with it, in its groups neither: setting the user leaves out the supplementary ones.
        command.uid(wanted.uid).gid(wanted.uid).arg0("whyrelay");
    }
    command.env("WHYRELAY_LAB", &topology.name);
    command
}

/// Waits until both have ended.
fn wait(
    lab: &Lab,
    conditions: &Conditions<'_>,
    sides: &[Side; 2],
    mut sessions: [Running; 2],
    mut cut: Option<&mut Cut<'_>>,
    limit: Duration,
) -> Result<(), LabError> {
    let began = Instant::now();
    let mut ended = [false, false];
    while ended != [true, true] {
        for (index, running) in sessions.iter_mut().enumerate() {
            let status = running.0.try_wait().map_err(LabError::system("waiting for a session"))?;
            ended[index] |= status.is_some();
            match status.and_then(|status| status.code()) {
                _ if status.is_none() => {}
                Some(0 | 1) => {}
                // Until it was in a group of its own, Ctrl-C reached it, too.
                _ if status.and_then(|status| status.signal()) == Some(Signal::SIGINT as i32) => {
                    return Err(LabError::Interrupted);
                }
                _ => return Err(sides[index].said("it could not do its work")),
            }
        }
        if let Some(cut) = &mut cut {
            cut.look(lab, sides)?;
        }
        if let Err(interrupted) = LabError::if_set(conditions.interrupted) {
            for running in &sessions {
                let _ = kill(Pid::from_raw(running.0.id().cast_signed()), Signal::SIGTERM);
            }
            return Err(interrupted);
        }
        if began.elapsed() > limit {
            let index = usize::from(ended[0]);
            return Err(sides[index].said(&format!("it did not end within {} s", limit.as_secs())));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn observe(
    recordings: Vec<String>,
    paths: [Path; 2],
    [relayed_data, over_tls]: [u64; 2],
    cut: Option<Timestamp>,
) -> Result<Observed, LabError> {
    let wrong = |error: whyrelay_core::trace::recording::RecordingError| LabError::Command {
        command: "reading the recordings".to_owned(),
        said: error.to_string(),
    };
    let read = |text: &String| Recording::read(text.as_bytes());
    let read: Vec<Recording> = recordings.iter().map(read).collect::<Result<_, _>>().map_err(wrong)?;
    let events = Recording::merge(read).map_err(wrong)?.events;
    let over_tls = over_tls.saturating_sub(relayed::checks(&events));
    let carried = relayed_data > 0 || relayed::carried(over_tls, &events);
    let relayed_data = relayed_data + over_tls;
    let path = (paths[0] == paths[1]).then_some(paths[0]);
    let mut contradictions = Vec::new();
    if path == Some(Path::Relayed) && !carried {
        contradictions.push("relayed, and yet the relay carried no data".to_owned());
    }
    for vantage in [Vantage::A, Vantage::B] {
        match path {
            Some(Path::Failed) if data_passed(&events, vantage, None) => {
                contradictions.push(format!("failed, and yet data passed at {vantage:?}"));
            }
            Some(Path::Direct | Path::Relayed) if !data_passed(&events, vantage, cut) => {
                contradictions.push(format!("connected, and yet no data passed at {vantage:?}"));
            }
            _ => {}
        }
    }
    let usable = [Vantage::A, Vantage::B].map(|vantage| usable_after(&events, vantage));
    let report = Report::from_events(&events);
    let mut both = recordings.into_iter();
    let recordings = [both.next().unwrap_or_default(), both.next().unwrap_or_default()];
    Ok(Observed {
        world: WorldKind::Kernel,
        path,
        report,
        events,
        recordings,
        usable_after: usable[0].zip(usable[1]).map(|(a, b)| a.max(b)),
        relayed_data: Some(relayed_data),
        relay_cut: cut.is_some(),
        discovered: BTreeMap::new(),
        contradictions,
    })
}

/// From a side's first event until its channel was open.
fn usable_after(events: &[Event], vantage: Vantage) -> Option<Duration> {
    let mut own = events.iter().filter(|event| event.vantage == vantage);
    let first = own.next()?.at;
    let open = own.find(|event| matches!(event.kind, EventKind::ChannelOpened { .. }))?;
    Some(Duration::from_micros(open.at.as_micros().saturating_sub(first.as_micros())))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::scenario::Scenario;

    /// Two peers; the session of the first runs as another user.
    pub(in crate::kernel) fn two_users() -> Topology {
        let text = "title = \"t\"\n[host.a]\nbehind = \"home-router\"\nsession = { uid = 1000 }\n\
                    [host.b]\nbehind = \"home-router\"\n[expect]\npath = \"direct\"\n";
        Scenario::parse("test", text).map(|scenario| scenario.topology).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A program inside has one `TURN_PASSWORD`, whichever peer's user name it takes.
    #[test]
    fn both_peers_credentials_are_of_one_moment() {
        let topology = Scenario::find("turn-expired-credentials").unwrap_or_else(|error| panic!("{error}")).topology;
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let all = SessionArguments::all_with_files_in(FilePath::new("/lab"), &topology, now);
        let user = |own: &SessionArguments| own.arguments.iter().find(|argument| argument.contains(":lab")).cloned();
        assert_eq!(user(&all[0]).as_deref(), Some("1799996400:lab"), "{all:?}");
        assert!(user(&all[0]) == user(&all[1]) && all[0].password == all[1].password, "{all:?}");
    }

    #[test]
    fn a_session_of_another_user_has_no_group_of_roots() {
        let command = command(FilePath::new("whyrelay"), FilePath::new("/lab"), &two_users(), 0);
        let told = format!("{command:#?}");
        assert!(told.contains("uid: Some(\n        1000") && told.contains("gid: Some(\n        1000"), "{told}");
    }
}
