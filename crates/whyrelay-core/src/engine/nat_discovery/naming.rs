//! Servers, which may become known one after the other: none is waited for before the others are asked.

use std::net::SocketAddr;

use super::{FROM_OTHER_ADDRESS, FROM_OTHER_PORT, MAPPING, MAX_SERVERS, NatDiscovery, What};

impl NatDiscovery {
    /// Another server. Before all sockets are open it is asked with the first ones.
    pub(super) fn add_server(&mut self, remote: SocketAddr, proving: bool) {
        let is_first_proof = proving && self.config.proving.is_empty();
        if proving && !self.config.proving.contains(&remote) {
            self.config.proving.push(remote);
        }
        if !self.all_opened() {
            return self.config.servers.push(remote);
        }
        self.ask_server(remote);
        if is_first_proof {
            self.ask_for_proof();
        }
    }

    /// Asks a server where it sees us, once.
    pub(super) fn ask_server(&mut self, server: SocketAddr) {
        if self.config.servers.contains(&server) {
            return;
        }
        if self.config.servers.len() < MAX_SERVERS {
            self.config.servers.push(server);
            return self.ask(MAPPING, server, What::Mapping, None);
        }
        let why = format!("only {MAX_SERVERS} servers of each address family are compared: name it without others");
        self.missing(&format!("where {server} sees a socket"), &why);
    }

    /// Ahead of time, so that the proof costs no round trip; of a server that is not asked for, it is not needed.
    pub(super) fn ask_for_proof(&mut self) {
        let Some(server) = self.config.proving.first().copied().filter(|_| self.server.is_none()) else { return };
        self.ask(FROM_OTHER_ADDRESS, server, What::Proof, None);
        self.ask(FROM_OTHER_PORT, server, What::Proof, None);
    }
}
