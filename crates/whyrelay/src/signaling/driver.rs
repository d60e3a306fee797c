//! Keeps a connection: numbers what is sent, acknowledges what comes, waits for the peer, and connects again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use whyrelay_core::signal::{Inbox, LARGE_MESSAGE, Message, MessageType, Outbox, Refusal, RefusalCode};

use super::link::{Link, LinkEvent};
use super::{Command, Incoming, SignalingError, SignalingOptions, Transport};

/// The first pause before connecting again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before connecting again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Messages are acknowledged in groups of so many, or after [`ACK_DELAY`]: a quarter of a mailbox.
const ACK_EVERY: u64 = 16;
/// How long an acknowledgement waits for company.
const ACK_DELAY: Duration = Duration::from_millis(100);
/// A peer that is not there is tried again after this, doubling to [`LONGEST_WAIT`], with a server that does not
/// tell when it comes.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The same with a server that tells: only in case it was not heard.
const SAFETY_WAIT: Duration = Duration::from_secs(5);

/// The task behind a client.
pub(super) struct Driver {
    options: Arc<SignalingOptions>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Incoming>,
    outbox: Outbox,
    inbox: Inbox,
    /// The client leaves, and wants to know whether everything was delivered.
    closing: Option<oneshot::Sender<bool>>,
    /// The absent peer that was told of.
    waiting_for: Option<String>,
    wait: Duration,
    retry_at: Option<Instant>,
    acknowledge_at: Option<Instant>,
}

/// Why serving a connection ended.
enum End {
    /// The client is gone.
    Closed,
    /// The connection is.
    Lost(SignalingError),
}

impl From<SignalingError> for End {
    fn from(error: SignalingError) -> Self {
        Self::Lost(error)
    }
}

impl Driver {
    pub(super) fn new(
        options: Arc<SignalingOptions>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Incoming>,
    ) -> Self {
        Self {
            options,
            commands,
            events,
            outbox: Outbox::new(),
            inbox: Inbox::new(),
            closing: None,
            waiting_for: None,
            wait: FIRST_WAIT,
            retry_at: None,
            acknowledge_at: None,
        }
    }

    pub(super) async fn run(mut self, mut link: Link) {
        loop {
            let (resumed, received) = link.numbering();
            if !resumed {
                self.inbox.reset();
            }
            self.outbox.on_connected(received);
            (self.retry_at, self.acknowledge_at) = (None, None);
            let mut lost = match self.serve(&mut link).await {
                End::Closed => return,
                End::Lost(error) => error,
            };
            drop(link);
            let mut pause = FIRST_PAUSE;
            link = loop {
                if !lost.is_passing() {
                    let _ = self.events.send(Incoming::Failed(lost)).await;
                    return;
                }
                let retry_in = jittered(pause).max(match &lost {
                    SignalingError::IdTaken { free_in, .. } => free_in.unwrap_or_default(),
                    _ => Duration::ZERO,
                });
                if self.events.send(Incoming::Disconnected { error: lost, retry_in }).await.is_err()
                    || !self.pause(retry_in).await
                {
                    return;
                }
                match Link::open(&self.options, self.inbox.last()).await {
                    Ok(link) => break link,
                    Err(error) => lost = error,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            };
            if self.events.send(Incoming::Reconnected).await.is_err() {
                return;
            }
        }
    }

    /// Waits before connecting again, and takes what the client sends meanwhile. `false`: the client is gone.
    async fn pause(&mut self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        if self.closing.is_some() {
            self.closed(false);
            return false;
        }
        loop {
            tokio::select! {
                () = sleep_until(until) => return true,
                command = self.commands.recv() => match command {
                    Some(Command::Send(message)) => self.push(message).await,
                    Some(Command::Close(done)) => {
                        let _ = done.send(self.outbox.is_empty());
                        return false;
                    }
                    None => return false,
                },
            }
        }
    }

    async fn serve(&mut self, link: &mut Link) -> End {
        loop {
            match self.step(link).await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    /// Sends what can be sent, then takes one thing that happens.
    async fn step(&mut self, link: &mut Link) -> Result<(), End> {
        let mut has_sent = false;
        while link.can_send()
            && let Some(message) = self.outbox.poll_send()
        {
            link.send(message).await?;
            has_sent = true;
        }
        if self.closing.is_some() {
            if self.outbox.is_empty() || (self.outbox.is_held() && self.waiting_for.is_some()) {
                // What the server has sent and we have taken must not wait in the mailbox of an id that is free.
                link.acknowledge(self.inbox.last(), false).await?;
                link.close().await;
                self.closed(self.outbox.is_empty());
                return Err(End::Closed);
            }
            if has_sent {
                link.acknowledge(self.inbox.last(), true).await?;
            }
        }
        if has_sent {
            link.flush().await?;
        }
        tokio::select! {
            command = self.commands.recv() => match command {
                Some(Command::Send(message)) => {
                    self.push(message).await;
                    // Whatever else is there goes with it.
                    for _ in 0..64 {
                        match self.commands.try_recv() {
                            Ok(Command::Send(message)) => self.push(message).await,
                            Ok(Command::Close(done)) => {
                                self.begin_closing(link, done).await?;
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                }
                Some(Command::Close(done)) => self.begin_closing(link, done).await?,
                None => return Err(End::Closed),
            },
            event = link.next() => self.take(link, event?).await?,
            () = at(self.acknowledge_at) => self.acknowledge(link, 1).await?,
            () = at(self.retry_at) => {
                self.retry_at = None;
                self.outbox.release();
            }
        }
        Ok(())
    }

    async fn begin_closing(&mut self, link: &mut Link, done: oneshot::Sender<bool>) -> Result<(), End> {
        self.closing = Some(done);
        link.acknowledge(self.inbox.last(), true).await?;
        Ok(())
    }

    fn closed(&mut self, everything: bool) {
        if let Some(done) = self.closing.take() {
            let _ = done.send(everything);
        }
    }

    async fn push(&mut self, message: Message) {
        if let Err(full) = self.outbox.push(message) {
            let refusal = Refusal::new(RefusalCode::MailboxFull, full.to_string());
            self.tell(Incoming::Refused(full.0.kind, refusal)).await;
        }
    }

    async fn tell(&self, event: Incoming) {
        // A client that is gone is noticed at its commands.
        let _ = self.events.send(event).await;
    }

    async fn acknowledge(&mut self, link: &mut Link, pending: u64) -> Result<(), End> {
        match self.inbox.poll_ack(pending) {
            Some(number) => {
                self.acknowledge_at = None;
                link.acknowledge(number, false).await?;
            }
            None if pending == 1 => self.acknowledge_at = None,
            None => {}
        }
        Ok(())
    }

    async fn take(&mut self, link: &mut Link, event: LinkEvent) -> Result<(), End> {
        match event {
            LinkEvent::Acknowledged(number) => {
                self.outbox.on_ack(number);
                self.waiting_for = None;
                self.wait = FIRST_WAIT;
            }
            LinkEvent::Refused(number, refusal) => self.refused(link.server().transport, number, refusal).await,
            LinkEvent::Message(message) => {
                if message.seq.is_some() && self.acknowledge_at.is_none() {
                    self.acknowledge_at = Some(Instant::now() + ACK_DELAY);
                }
                let pending = if message.content.len() > LARGE_MESSAGE { 1 } else { ACK_EVERY };
                if self.inbox.accept(message.seq) {
                    self.deliver(message).await;
                }
                self.acknowledge(link, pending).await?;
            }
        }
        Ok(())
    }

    async fn refused(&mut self, transport: Transport, number: u64, refusal: Refusal) {
        let is_absent = refusal.code == RefusalCode::RecipientNotFound;
        if !is_absent && refusal.retry_after_ms.is_none() {
            if let Some(message) = self.outbox.abandon(number) {
                self.tell(Incoming::Refused(message.kind, refusal)).await;
            }
            return;
        }
        self.outbox.on_refused(number);
        if !self.outbox.is_held() {
            return;
        }
        let wait = match refusal.retry_after_ms {
            Some(millis) => Duration::from_millis(millis.min(60_000)),
            None if transport == Transport::WebSocket => SAFETY_WAIT,
            None => {
                let wait = self.wait;
                self.wait = (wait * 2).min(LONGEST_WAIT);
                wait
            }
        };
        self.retry_at = Some(Instant::now() + wait);
        let to = self.outbox.first().map(|message| message.to.clone());
        if is_absent && to != self.waiting_for {
            if let Some(to) = to.clone() {
                self.tell(Incoming::WaitingForPeer(to)).await;
            }
            self.waiting_for = to;
        }
    }

    async fn deliver(&mut self, message: Message) {
        let event = match message.kind {
            MessageType::Servers if message.from.is_empty() => match serde_json::from_str(&message.content) {
                Ok(announcement) => Incoming::Servers(announcement),
                Err(_) => return,
            },
            MessageType::PeerJoined => {
                self.retry_at = None;
                self.outbox.release();
                Incoming::PeerJoined(message.from)
            }
            MessageType::PeerLeft => Incoming::PeerLeft(message.from),
            MessageType::Heartbeat => return,
            _ if message.kind.is_servers_own() => return,
            _ => Incoming::Message(message),
        };
        self.tell(event).await;
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Half to all of `pause`, so that the clients of a server that comes back do not all come at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the whole pause is as good.
    let part = getrandom::fill(&mut random).map_or(255, |()| u32::from(random[0]));
    pause / 2 + pause * part / 510
}
