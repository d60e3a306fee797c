//! The origin's server as SIGNALING.md describes it, faults included: delivery without a buffer, a response that ends
//! when idle, 404 for whoever does not receive.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use whyrelay_core::signal::Message;

#[derive(Clone)]
struct Lab {
    receivers: Arc<Mutex<HashMap<String, mpsc::Sender<Message>>>>,
    idle: Duration,
}

pub(crate) struct LabServer {
    pub(crate) address: SocketAddr,
    running: JoinHandle<()>,
}

impl LabServer {
    /// A server whose responses end after `idle` without a message.
    pub(crate) async fn start(idle: Duration) -> Self {
        let lab = Lab { receivers: Arc::default(), idle };
        let routes = Router::new().route("/send", post(send)).route("/receive", get(receive)).with_state(lab);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, running }
    }
}

impl Drop for LabServer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn send(State(lab): State<Lab>, body: Bytes) -> Response {
    let message = match Message::from_json(&body) {
        Ok(message) => message,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let receiver = lab.receivers.lock().unwrap().get(&message.to).cloned();
    match receiver {
        Some(receiver) if receiver.send(message).await.is_ok() => StatusCode::OK.into_response(),
        _ => (StatusCode::NOT_FOUND, "recipient not found\n").into_response(),
    }
}

async fn receive(State(lab): State<Lab>, Query(query): Query<HashMap<String, String>>) -> Response {
    let Some(id) = query.get("id").filter(|id| !id.is_empty()).cloned() else {
        return (StatusCode::BAD_REQUEST, "missing client ID\n").into_response();
    };
    // The smallest there is; the origin has none at all.
    let (sender, mut receiver) = mpsc::channel::<Message>(1);
    lab.receivers.lock().unwrap().insert(id.clone(), sender.clone());
    let receivers = Arc::clone(&lab.receivers);
    let leave = move || {
        let mut receivers = receivers.lock().unwrap();
        if receivers.get(&id).is_some_and(|current| current.same_channel(&sender)) {
            receivers.remove(&id);
        }
    };
    // As the origin: not even the head is sent before the first message.
    let Ok(first) = tokio::time::timeout(lab.idle, receiver.recv()).await else {
        leave();
        return StatusCode::NO_CONTENT.into_response();
    };
    let lines =
        futures_util::stream::unfold((receiver, first, leave), move |(mut receiver, first, leave)| async move {
            let next = match first {
                Some(first) => Some(first),
                None => tokio::time::timeout(lab.idle, receiver.recv()).await.ok().flatten(),
            };
            let Some(message) = next else {
                leave();
                return None;
            };
            let line = Ok::<_, std::convert::Infallible>(format!("{}\n", message.to_json()));
            Some((line, (receiver, None, leave)))
        });
    Body::from_stream(lines).into_response()
}
