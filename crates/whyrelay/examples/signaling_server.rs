//! The signaling server alone, at the address that is its argument: for `signaling_load`.

use anyhow::Context as _;
use whyrelay::server::signaling::{SignalingConfig, SignalingServer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).context("an address is missing")?.parse()?;
    let server = SignalingServer::bind(address, SignalingConfig::default())?;
    eprintln!("listening on {}", server.local_addr());
    server
        .run(async {
            // Without signals it runs until it is killed.
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    Ok(())
}
