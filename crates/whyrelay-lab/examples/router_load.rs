//! What a router of the laboratory adds and carries: `router_load kernel|user-space`.
//!
//! A host behind a home router and a public one. Prints the median round trip of a datagram, and what a TCP stream and
//! a steady flow of datagrams carry.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use whyrelay_lab::kernel::{Lab, LabError, Plan, RouterChoice};
use whyrelay_lab::scenario::Scenario;

const SCENARIO: &str =
    "title = \"a home\"\n[host.a]\nbehind = \"home-router\"\n[host.b]\n[expect]\npath = \"direct\"\n";
/// Datagrams of the round trip's measurement.
const ROUND_TRIPS: usize = 5000;
const LASTS: Duration = Duration::from_secs(3);
/// From one datagram to the next: a flood would only show who gets the processor.
const EACH: Duration = Duration::from_micros(16);
/// What fits into a packet of any tunnel.
const DATAGRAM: usize = 1400;

fn main() -> Result<(), Box<dyn Error>> {
    let choice = match std::env::args().nth(1).as_deref() {
        Some("kernel") => RouterChoice::Kernel,
        Some("user-space") => RouterChoice::UserSpace,
        _ => return Err("say kernel or user-space".into()),
    };
    let scenario = Scenario::parse("router-load", SCENARIO)?;
    let far = scenario.topology.hosts[1].addresses().find(IpAddr::is_ipv4).ok_or("b has no IPv4 address")?;
    let lab = Lab::up(Plan::of(&scenario.topology, choice)?)?;
    println!("round trip {:.1} us", round_trip(&lab, far)?);
    println!("stream {:.1} Mbit/s", stream(&lab, far)?);
    println!("datagrams {:.1} Mbit/s", datagrams(&lab, far)?);
    Ok(())
}

/// The median, in microseconds.
fn round_trip(lab: &Lab, far: IpAddr) -> Result<f64, Box<dyn Error>> {
    let (near, other) = (udp(lab, "a", None)?, udp(lab, "b", Some(far))?);
    let to = other.local_addr()?;
    thread::spawn(move || {
        let mut buffer = [0; DATAGRAM];
        while let Ok((length, from)) = other.recv_from(&mut buffer) {
            let _ = other.send_to(&buffer[..length], from);
        }
    });
    near.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut taken = Vec::with_capacity(ROUND_TRIPS);
    let mut buffer = [0; DATAGRAM];
    let begun = Instant::now();
    while taken.len() < ROUND_TRIPS && begun.elapsed() < LASTS * 10 {
        let sent = Instant::now();
        // The first ones may find links that are not up yet.
        if near.send_to(&[0; 100], to).is_ok() && near.recv_from(&mut buffer).is_ok() {
            taken.push(sent.elapsed());
        }
    }
    taken.sort();
    let median = taken.get(taken.len() / 2).ok_or("nothing came back")?;
    Ok(median.as_secs_f64() * 1e6)
}

/// What one TCP connection carries, in Mbit/s.
fn stream(lab: &Lab, far: IpAddr) -> Result<f64, Box<dyn Error>> {
    let listener = lab.enter("b", || TcpListener::bind((far, 0)).map_err(refused("listening")))?;
    let to = listener.local_addr()?;
    let received = Arc::new(AtomicU64::new(0));
    let counted = received.clone();
    thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        if let Ok((mut stream, _)) = listener.accept() {
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                counted.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    });
    let mut near = lab.enter("a", || TcpStream::connect(to).map_err(refused("connecting")))?;
    let chunk = vec![0; 128 * 1024];
    let begun = Instant::now();
    while begun.elapsed() < LASTS {
        near.write_all(&chunk)?;
    }
    Ok(rate(received.load(Ordering::Relaxed), begun.elapsed()))
}

/// What arrives of 700 Mbit/s of datagrams, in Mbit/s.
fn datagrams(lab: &Lab, far: IpAddr) -> Result<f64, Box<dyn Error>> {
    let (near, other) = (udp(lab, "a", None)?, udp(lab, "b", Some(far))?);
    let to = other.local_addr()?;
    other.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (received, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, ended) = (received.clone(), done.clone());
    let receiver = thread::spawn(move || {
        let mut buffer = [0; DATAGRAM];
        while !ended.load(Ordering::Relaxed) {
            if let Ok(length) = other.recv(&mut buffer) {
                counted.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    });
    let begun = Instant::now();
    let mut sent: u32 = 0;
    while begun.elapsed() < LASTS {
        if begun.elapsed() < EACH * sent {
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        // A full queue refuses: that is a loss like any other.
        let _ = near.send_to(&[0; DATAGRAM], to);
        sent += 1;
    }
    let rate = rate(received.load(Ordering::Relaxed), begun.elapsed());
    done.store(true, Ordering::Relaxed);
    receiver.join().map_err(|_| "the receiver panicked")?;
    Ok(rate)
}

fn udp(lab: &Lab, host: &str, address: Option<IpAddr>) -> Result<UdpSocket, LabError> {
    let address = SocketAddr::new(address.unwrap_or(IpAddr::from([0, 0, 0, 0])), 0);
    lab.enter(host, || UdpSocket::bind(address).map_err(refused("opening a socket")))
}

fn refused(doing: &'static str) -> impl FnOnce(std::io::Error) -> LabError {
    move |source| LabError::System { doing: doing.to_owned(), source }
}

fn rate(bytes: u64, taken: Duration) -> f64 {
    bytes as f64 * 8.0 / taken.as_secs_f64() / 1e6
}
