//! `/metrics`: what the server counts, as Prometheus reads it. No name, address or secret is in it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::signaling::Gauges;
use super::turn::{Metrics, StunTurnServer};

/// The content type of Prometheus' text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Who is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever can connect: for a listener of its own.
    Everybody,
    /// Who connects from this machine, and not through a proxy: for the port that everybody reaches.
    ThisMachine,
}

/// The route `/metrics`.
pub fn router(relay: Option<StunTurnServer>, gauges: Arc<Gauges>, audience: Audience) -> Router {
    let answer = move |ConnectInfo(remote): ConnectInfo<SocketAddr>, headers: HeaderMap| async move {
        let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| headers.contains_key(*name));
        if audience == Audience::ThisMachine && (forwarded || !remote.ip().to_canonical().is_loopback()) {
            return (StatusCode::FORBIDDEN, "for this machine only; see --metrics-listen\n").into_response();
        }
        let metrics = relay.as_ref().map(StunTurnServer::metrics);
        ([(header::CONTENT_TYPE, CONTENT_TYPE)], render(metrics.as_ref(), &gauges)).into_response()
    };
    Router::new().route("/metrics", get(answer))
}

/// Serves a listener of its own: one request for each connection, few connections at once, none for long.
pub async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                // Out of file descriptors, most likely: it must not cost a processor.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(remote));
                service.call(request)
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // A scraper that goes away is no concern of ours.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
            drop(place);
        });
    }
}

/// Connections to the listener for metrics at a time; more wait.
const CONNECTIONS: usize = 16;
/// One request with its response may take this long.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The text.
pub fn render(relay: Option<&Metrics>, gauges: &Gauges) -> String {
    let mut page = Page(String::new());
    if let Some(metrics) = relay {
        turn(&mut page, metrics);
    }
    let gauge = |value: &std::sync::atomic::AtomicUsize| value.load(Ordering::Relaxed) as u64;
    page.gauge("signaling_connections", "Connections that are open.", gauge(&gauges.connections));
    page.gauge("signaling_peers", "Peers that receive or are away.", gauge(&gauges.peers));
    page.gauge("signaling_rooms", "Rooms.", gauge(&gauges.rooms));
    page.gauge("signaling_queued_messages", "Messages that wait, in all mailboxes.", gauge(&gauges.queued_messages));
    page.gauge("signaling_queued_bytes", "Bytes that wait, in all mailboxes.", gauge(&gauges.queued_bytes));
    page.gauge("signaling_deepest_mailbox", "Messages in the fullest mailbox.", gauge(&gauges.deepest_mailbox));
    let count = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    page.counter("signaling_messages_total", "Messages taken.", count(&gauges.messages));
    page.counter("signaling_messages_refused_total", "Messages refused.", count(&gauges.refused));
    page.0
}

fn turn(page: &mut Page, metrics: &Metrics) {
    let counters = &metrics.counters;
    page.gauge("turn_allocations", "Allocations that live now.", metrics.allocations as u64);
    page.gauge("turn_streams", "TCP and TLS connections that are open.", metrics.streams as u64);
    page.gauge("probe_sessions", "Sessions of probes that live now.", metrics.probe_sessions as u64);
    page.counter("stun_bindings_total", "Binding requests answered.", counters.bindings);
    page.head("turn_requests_total", "Requests of TURN, by method.", "counter");
    for (method, count) in &counters.methods {
        page.sample("turn_requests_total", &[("method", &method.to_string())], *count);
    }
    page.counter("turn_allocations_total", "Allocations made.", counters.allocations);
    page.counter(
        "challenges_total",
        "Requests answered with a nonce: 401 without a password, 438.",
        counters.challenges,
    );
    page.head("turn_errors_total", "All other error responses, by code.", "counter");
    for (code, count) in &counters.errors {
        page.sample("turn_errors_total", &[("code", &code.to_string())], *count);
    }
    page.head(
        "turn_rejected_by_policy_total",
        "Requests and datagrams that the peer policy refused, by reason.",
        "counter",
    );
    for (refusal, count) in &counters.refusals {
        page.sample("turn_rejected_by_policy_total", &[("reason", refusal.name())], *count);
    }
    page.counter("turn_limited_peers_total", "New peers refused: too many a second.", counters.peers_limited);
    let directions = [
        ("to_peer", counters.datagrams_to_peers, counters.bytes_to_peers),
        ("to_client", counters.datagrams_to_clients, counters.bytes_to_clients),
    ];
    page.head("turn_relayed_datagrams_total", "Application datagrams relayed.", "counter");
    for (direction, datagrams, _) in directions {
        page.sample("turn_relayed_datagrams_total", &[("direction", direction)], datagrams);
    }
    page.head("turn_relayed_bytes_total", "Application bytes relayed, without TURN's framing.", "counter");
    for (direction, _, bytes) in directions {
        page.sample("turn_relayed_bytes_total", &[("direction", direction)], bytes);
    }
    page.counter("turn_dropped_datagrams_total", "Application datagrams dropped.", counters.datagrams_dropped);
    page.counter("turn_limited_datagrams_total", "Of those, dropped by a rate limit.", counters.datagrams_limited);
    page.counter(
        "turn_unauthenticated_withheld_total",
        "Unauthenticated answers not sent: the source had its share.",
        counters.unauthenticated_withheld,
    );
    page.counter("discovery_answers_total", "Requests of behavior discovery answered.", counters.discoveries);
    page.counter(
        "discovery_withheld_total",
        "Requests of behavior discovery not answered.",
        counters.discoveries_withheld,
    );
    page.counter("probe_answers_total", "Probes answered.", counters.probes);
    page.counter("probe_withheld_total", "Probes not answered.", counters.probes_withheld);
    page.counter("noise_datagrams_total", "Datagrams that were nothing a server answers.", counters.noise);
    page.counter("received_datagrams_total", "Datagrams read from the listening sockets.", metrics.received_datagrams);
    page.counter(
        "overflowed_datagrams_total",
        "Datagrams that the kernel dropped at these sockets: no room, or broken; those that came coalesced count once.",
        metrics.overflowed_datagrams,
    );
    page.counter("unsent_datagrams_total", "Datagrams that the system did not take.", metrics.unsent_datagrams);
    page.counter("unsent_stream_messages_total", "Messages dropped at slow readers.", metrics.unsent_stream_messages);
    page.counter("streams_refused_total", "Connections refused or closed by a bound.", metrics.streams_refused);
}

/// Prometheus' text format.
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.sample(name, &[], value);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP whyrelay_{name} {help}\n# TYPE whyrelay_{name} {kind}\n");
    }

    /// Label values are ours: numbers and fixed words, nothing to escape.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "whyrelay_{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use whyrelay_core::engine::turn_server::Refusal;
    use whyrelay_core::wire::stun::Method;

    use super::*;

    #[test]
    fn every_line_is_prometheus_text_and_every_name_is_declared_once() {
        let mut metrics = Metrics { allocations: 3, ..Metrics::default() };
        metrics.counters.errors.extend([(401, 7), (486, 1)]);
        metrics.counters.methods.insert(Method::ALLOCATE, 9);
        metrics.counters.refusals.insert(Refusal::Loopback, 2);
        let text = render(Some(&metrics), &Gauges::default());
        let mut declared = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(declared.insert(rest.split(' ').next().unwrap().to_owned()), "{line}");
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(declared.contains(name.split('{').next().unwrap()) && value.parse::<u64>().is_ok(), "{line}");
            }
        }
        for line in [
            "whyrelay_turn_allocations 3",
            "whyrelay_turn_errors_total{code=\"401\"} 7",
            "whyrelay_turn_requests_total{method=\"Allocate\"} 9",
            "whyrelay_turn_rejected_by_policy_total{reason=\"loopback\"} 2",
            "whyrelay_signaling_queued_messages 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
