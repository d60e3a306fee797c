//! A router's end of NAT-PMP, PCP and UPnP: sockets in its namespace for [`Mappings`], which begin and end forwards in the
//! user-space router's table.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use whyrelay_core::engine::port_mapping::router::RouterConfig;
use whyrelay_core::wire::portmap::{self, ssdp};

use super::error::LabError;
use super::router::{Clock, SharedTranslator, lock};
use crate::port_mapping::Mappings;

/// The largest datagram that is read.
const LARGEST: usize = 2048;
/// The longest request to the HTTP server.
const LONGEST_REQUEST: usize = 64 * 1024;
/// How long one request may take. They are served one after the other.
const REQUEST: Duration = Duration::from_millis(500);
/// How long the thread may take to notice that it is to end, or that a mapping has ended.
const NOTICE: u16 = 50;

/// The thread that serves; it ends when dropped.
#[derive(Debug)]
pub(crate) struct MappingServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MappingServer {
    /// Opens its sockets in the namespace of the calling thread.
    pub(crate) fn start(config: RouterConfig, translator: SharedTranslator) -> Result<Self, LabError> {
        let service = Service::open(config, translator)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let serve = move || service.run(&stopped);
        let thread = std::thread::Builder::new().name("lab port mapping".to_owned()).spawn(serve);
        let thread = Some(thread.map_err(LabError::system("starting a thread"))?);
        Ok(Self { stop, thread })
    }
}

impl Drop for MappingServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Service {
    mappings: Mappings,
    clock: Clock,
    /// Sockets with the ports that the router knows them by.
    datagrams: Vec<(u16, UdpSocket)>,
    http: Option<TcpListener>,
    translator: SharedTranslator,
}

impl Service {
    fn open(config: RouterConfig, translator: SharedTranslator) -> Result<Self, LabError> {
        let failed = || LabError::system("opening the sockets of a port mapping server");
        let mut datagrams = Vec::new();
        if config.nat_pmp || config.pcp {
            let socket = UdpSocket::bind((config.internal, portmap::PORT)).map_err(failed())?;
            datagrams.push((portmap::PORT, socket));
        }
        let mut http = None;
        if let Some(port) = config.upnp {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ssdp::GROUP.port())).map_err(failed())?;
            socket.join_multicast_v4(ssdp::GROUP.ip(), &config.internal).map_err(failed())?;
            datagrams.push((ssdp::GROUP.port(), socket));
            let listener = TcpListener::bind((config.internal, port)).map_err(failed())?;
            listener.set_nonblocking(true).map_err(failed())?;
            http = Some(listener);
        }
        for (_, socket) in &datagrams {
            socket.set_nonblocking(true).map_err(failed())?;
        }
        let clock = Clock::new();
        let mappings = Mappings::new(clock.now(), config);
        Ok(Self { mappings, clock, datagrams, http, translator })
    }

    fn run(mut self, stopped: &AtomicBool) {
        let mut buffer = [0; LARGEST];
        while !stopped.load(Ordering::Relaxed) {
            self.wait();
            for index in 0..self.datagrams.len() {
                self.answer_datagrams(index, &mut buffer);
            }
            while let Some(Ok((stream, source))) = self.http.as_ref().map(TcpListener::accept) {
                // Who does not finish its request gets no answer.
                let _ = self.answer_request(stream, source);
            }
            // Those that have ended by themselves.
            self.tell();
        }
    }

    fn wait(&self) {
        let sockets = self.datagrams.iter().map(|(_, socket)| socket.as_fd());
        let all = sockets.chain(self.http.iter().map(|listener| listener.as_fd()));
        let mut all: Vec<PollFd<'_>> = all.map(|socket| PollFd::new(socket, PollFlags::POLLIN)).collect();
        let _ = poll(&mut all, PollTimeout::from(NOTICE));
    }

    fn answer_datagrams(&mut self, index: usize, buffer: &mut [u8]) {
        while let Ok((length, source)) = self.datagrams[index].1.recv_from(buffer) {
            let port = self.datagrams[index].0;
            self.mappings.hold(&lock(&self.translator).udp);
            let answer = self.mappings.datagram(self.clock.now(), source, port, &buffer[..length]);
            // Before the answer: who has it may use the mapping at once.
            self.tell();
            if let Some(answer) = answer {
                let _ = self.datagrams[index].1.send_to(&answer, source);
            }
        }
    }

    fn answer_request(&mut self, mut stream: TcpStream, source: SocketAddr) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(REQUEST))?;
        let until = Instant::now() + REQUEST;
        let mut request = Vec::new();
        let mut buffer = [0; LARGEST];
        while request.len() < LONGEST_REQUEST {
            let left = until.saturating_duration_since(Instant::now());
            stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let length = stream.read(&mut buffer)?;
            request.extend_from_slice(&buffer[..length]);
            self.mappings.hold(&lock(&self.translator).udp);
            if let Some(response) = self.mappings.http(self.clock.now(), source.ip(), &request) {
                self.tell();
                return stream.write_all(&response);
            }
            if length == 0 || left.is_zero() {
                break;
            }
        }
        Ok(())
    }

    /// Tells the user-space router what has changed.
    fn tell(&mut self) {
        for (external, internal) in self.mappings.changes(self.clock.now()) {
            lock(&self.translator).udp.forward(external, internal);
        }
    }
}
