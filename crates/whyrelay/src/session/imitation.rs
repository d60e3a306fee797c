//! Sockets made like another program's (`--as`), and what the recording says of that.

use std::io;
use std::net::SocketAddr;

use tokio::sync::mpsc;
use whyrelay_core::host::{HostFact, Moment};
use whyrelay_core::trace::event::EventKind;

use super::driver::Session;
use crate::io::udp::{UdpDoor, UdpInput, UdpOptions};

/// How far the sockets of a session are like the application's.
#[derive(Debug, Default)]
pub(super) struct Imitation {
    /// How they are made.
    pub(super) options: UdpOptions,
    /// What the system does not let them be.
    pub(super) missing: Vec<String>,
    /// The port of the application was taken; another stands for it.
    pub(super) port_taken: bool,
}

impl Session {
    /// Finds out what of the application may be imitated, and says so.
    pub(super) fn imitate(&mut self) {
        let (options, missing) = self.config.sockets();
        self.config.mark = options.mark;
        if let Some(application) = &self.config.application {
            let line = format!("as {}: {}", application.asked(), application.describe());
            self.progress.step(&line);
            for what in &missing {
                self.progress.step(&format!("not like {}: {what}", application.asked()));
            }
        }
        self.imitation = Imitation { options, missing, port_taken: false };
    }

    /// Opens one of the session's own sockets: on the application's port, or beside it when that is taken. The program
    /// that has it is never disturbed.
    pub(super) fn open_door(
        &mut self,
        wanted: SocketAddr,
        interface: Option<&str>,
        inputs: &mpsc::Sender<UdpInput>,
    ) -> io::Result<UdpDoor> {
        let options = self.options_on(interface);
        match UdpDoor::open(wanted, options, inputs.clone()) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && self.config.application.is_some() => {
                let door = UdpDoor::open(SocketAddr::new(wanted.ip(), 0), options, inputs.clone())?;
                let port = door.local().port();
                if !std::mem::replace(&mut self.imitation.port_taken, true) {
                    let line =
                        format!("port {} is taken: everything else of it stands on port {port} instead", wanted.port());
                    self.progress.step(&line);
                }
                Ok(door)
            }
            Err(error) if error.raw_os_error() == Some(libc::EACCES) && (1..1024).contains(&wanted.port()) => {
                let why = format!("{error}; ports below 1024 take CAP_NET_BIND_SERVICE");
                Err(io::Error::new(error.kind(), why))
            }
            opened => opened,
        }
    }

    /// Tells how a socket was made, ahead of its opening.
    pub(super) fn record_profile(&mut self, local: SocketAddr, options: UdpOptions, as_application: bool) {
        if self.config.application.is_none() {
            return;
        }
        let profile = options.profile(local, as_application);
        self.host_input(Moment::Before, HostFact::SocketProfile(profile));
    }

    /// Tells what the session stands in for, once the port is known.
    pub(super) fn record_application(&mut self) {
        if let Some(application) = &self.config.application {
            let fact = application.fact(!self.imitation.port_taken, &self.imitation.missing);
            self.record(EventKind::HostFact { moment: Moment::Before, fact: Box::new(HostFact::Application(fact)) });
        }
    }
}
