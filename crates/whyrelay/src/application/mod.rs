//! The program under suspicion (`--as`): what its sockets are like, so that ours can be made alike.
//!
//! What is known of NetBird, Tailscale and WireGuard from their sources, corrected by what is read of the running
//! program where that is permitted. Nothing is sent to it, and none of its ports is touched.

mod permitted;
#[cfg(target_os = "linux")]
mod running;
mod spec;
#[cfg(target_os = "linux")]
mod wireguard;

use whyrelay_core::host::Application;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Netbird,
    Tailscale,
    Wireguard,
}

impl Known {
    const fn name(self) -> &'static str {
        match self {
            Self::Netbird => "netbird",
            Self::Tailscale => "tailscale",
            Self::Wireguard => "wireguard",
        }
    }

    /// What its sources say.
    fn defaults(self) -> Suspect {
        let (mark, port) = match self {
            // 0x1BD00 on every control socket; 51820 for STUN, checks and WireGuard alike.
            Self::Netbird => (Some(0x1_BD00), Some(51_820)),
            Self::Tailscale => (Some(0x8_0000), Some(41_641)),
            // The mark of wg-quick stands only where everything goes into the tunnel.
            Self::Wireguard => (None, Some(51_820)),
        };
        Suspect { mark, port, ..Suspect::new(self.name(), Origin::Known) }
    }
}

/// Where the settings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Known,
    Running,
    Given,
}

/// What the sockets of the program under suspicion are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    asked: String,
    origin: Origin,
    /// Its firewall mark.
    pub mark: Option<u32>,
    /// Its port.
    pub port: Option<u16>,
    /// Its user.
    pub user: Option<u32>,
    /// The interface that it binds to.
    pub device: Option<String>,
    /// Whether it sends through a raw socket.
    pub raw: bool,
    /// Interfaces that it offers no candidates of.
    pub left_out: Vec<String>,
    /// Whether it holds its port at this moment.
    holds_port: bool,
    /// What of it ours are not like, and why.
    notes: Vec<String>,
}

impl Suspect {
    /// As it was asked for.
    pub fn name(&self) -> &str {
        &self.asked
    }

    fn new(asked: &str, origin: Origin) -> Self {
        Self {
            asked: asked.to_owned(),
            origin,
            mark: None,
            port: None,
            user: None,
            device: None,
            raw: false,
            left_out: Vec::new(),
            holds_port: false,
            notes: Vec::new(),
        }
    }

    /// Understands `--as`.
    ///
    /// # Errors
    /// A sentence that says what can stand there, or that the process cannot be seen.
    pub fn resolve(asked: &str) -> anyhow::Result<Self> {
        let known = [Known::Netbird, Known::Tailscale, Known::Wireguard];
        let known = known.into_iter().find(|known| known.name().eq_ignore_ascii_case(asked.trim()));
        match (known, asked.trim().parse::<u32>()) {
            (Some(known), _) => Ok(read_known(known)),
            (None, Ok(process)) => read_process(process),
            (None, Err(_)) => spec::parse(asked),
        }
    }

    /// What was asked for.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// One line for the user: what stands in for what.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.mark.map(|mark| format!("mark {mark:#x}")));
        parts.extend(self.port.map(|port| format!("port {port}")));
        parts.extend(self.device.as_ref().map(|device| format!("interface {device}")));
        parts.extend(self.user.map(|user| format!("user {user}")));
        parts.push(if self.raw { "raw socket".into() } else { "UDP socket".into() });
        let origin = match self.origin {
            Origin::Known => "as its sources have it; it does not run here, or cannot be read",
            Origin::Running => "read from the running program",
            Origin::Given => "as given",
        };
        format!("{} ({origin})", parts.join(", "))
    }

    /// The fact for the recording. `port_used`: its port was free.
    pub fn fact(&self, port_used: bool, not_imitated: &[String]) -> Application {
        let origin = match self.origin {
            Origin::Known => "known",
            Origin::Running => "running",
            Origin::Given => "given",
        };
        Application {
            asked: self.asked.clone(),
            origin: origin.into(),
            mark: self.mark,
            port: self.port,
            port_used,
            user: self.user,
            bound_device: self.device.clone(),
            raw: self.raw,
            not_imitated: self.notes.iter().chain(not_imitated).cloned().collect(),
        }
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

#[cfg(target_os = "linux")]
fn read_known(known: Known) -> Suspect {
    running::of(known)
}

#[cfg(target_os = "linux")]
fn read_process(process: u32) -> anyhow::Result<Suspect> {
    running::of_process(process)
}

#[cfg(not(target_os = "linux"))]
fn read_known(known: Known) -> Suspect {
    known.defaults()
}

#[cfg(not(target_os = "linux"))]
fn read_process(process: u32) -> anyhow::Result<Suspect> {
    anyhow::bail!("--as {process}: the sockets of other programs are not read on {}", std::env::consts::OS)
}
