//! Runs matchbox_signaling's full mesh at the address that is its argument.

use std::net::SocketAddr;

use matchbox_signaling::SignalingServer;

#[tokio::main]
async fn main() {
    let address: SocketAddr = std::env::args().nth(1).expect("an address").parse().expect("an address");
    SignalingServer::full_mesh_builder(address).build().serve().await.expect("it serves");
}
