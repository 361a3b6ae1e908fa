//! The state of a connection and its deadline.

use std::fmt::{Display, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::held::Held;
use super::options::ConnectionLimits;

/// A client must read this many bytes for each second beyond the write timeout.
const ANSWER_BYTES_PER_SECOND_MIN: usize = 64 * 1024;

/// A connection whose head takes longer than this counts as idle while others wait for slots.
const SLOW_HEAD: Duration = Duration::from_secs(2);

/// While the server drains, a head must be complete after this time.
const DRAIN_HEAD: Duration = Duration::from_millis(250);

/// The event that a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The next request.
    Request,
    /// The head of a request.
    Head,
    /// The answer of the service.
    Answer,
    /// The client, which reads its answer.
    Reader,
}

impl Display for Awaited {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Request => "the next request",
            Self::Head => "the whole head of a request",
            Self::Answer => "an answer",
            Self::Reader => "the client to read its answer",
        })
    }
}

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No byte of the next request has arrived.
    Idle,
    /// A part of a request's head has arrived.
    Head,
    /// A request is being answered. Its own deadline applies, to its body too.
    Request,
    /// The answer is being sent.
    Answer {
        /// hyper has taken the whole answer.
        taken: bool,
    },
    /// The head was refused; the refusal is being sent.
    Refused,
}

/// State and deadline of one connection; its socket and its service report to it.
#[derive(Debug)]
pub struct ConnectionDeadlines {
    limits: ConnectionLimits,
    phase: Phase,
    /// No request has arrived yet.
    first: bool,
    deadline: Option<Instant>,
    /// When the head of the current request was complete.
    request_since: Instant,
    /// When the connection was accepted, or the current head began.
    head_since: Instant,
    /// Dropped when the answers of the connection were sent.
    held: Vec<Held>,
    /// When the current answer must be sent at the lowest rate of reading.
    rate_deadline: Instant,
    may_send_more: bool,
}

impl ConnectionDeadlines {
    pub fn new(limits: ConnectionLimits, accepted_at: Instant) -> Self {
        Self {
            limits,
            phase: Phase::Idle,
            first: true,
            deadline: Some(accepted_at + limits.head_timeout),
            request_since: accepted_at,
            head_since: accepted_at,
            rate_deadline: accepted_at,
            held: Vec::new(),
            may_send_more: false,
        }
    }

    /// When the connection has taken too long; `None` while only a request's own deadline applies.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The event that the connection waits for, in words for the log.
    pub fn awaited(&self) -> Awaited {
        match self.phase {
            Phase::Idle if !self.first => Awaited::Request,
            Phase::Idle | Phase::Head => Awaited::Head,
            Phase::Request => Awaited::Answer,
            Phase::Answer { .. } | Phase::Refused => Awaited::Reader,
        }
    }

    /// True while no byte of a request has been read.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// True from the head of a request until its answer was sent.
    pub fn is_answering(&self) -> bool {
        matches!(self.phase, Phase::Request | Phase::Answer { .. })
    }

    /// Since when a request is being answered of which nothing was sent.
    pub fn request_since(&self) -> Option<Instant> {
        (self.phase == Phase::Request).then_some(self.request_since)
    }

    /// From when on the connection may give its slot to another one: at once between requests, later while a head
    /// arrives, not at all while a request is answered.
    pub fn idle_from(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle if !self.first => Some(Instant::now()),
            Phase::Idle | Phase::Head => Some(self.head_since + SLOW_HEAD),
            Phase::Request | Phase::Answer { .. } | Phase::Refused => None,
        }
    }

    pub fn bytes_received(&mut self) {
        if self.phase != Phase::Idle {
            return;
        }
        self.phase = Phase::Head;
        // The time of the first request runs since the accept.
        if !self.first {
            self.head_since = Instant::now();
            self.deadline = Some(self.head_since + self.limits.head_timeout);
        }
    }

    /// The head of a request is complete.
    pub fn request_started(&mut self) {
        (self.phase, self.first, self.deadline) = (Phase::Request, false, None);
        self.request_since = Instant::now();
    }

    /// The head of an answer is ready to be sent. `held` is kept until the whole answer was sent. `may_send_more` is true
    /// if the request's body may not have arrived whole.
    pub fn answer_started(&mut self, held: Option<Held>, may_send_more: bool) {
        self.held.extend(held);
        self.may_send_more = may_send_more;
        self.phase = Phase::Answer { taken: false };
        self.rate_deadline = Instant::now() + self.limits.write_timeout;
        self.deadline = Some(self.rate_deadline);
    }

    /// The head was refused, and the connection ends with the refusal.
    pub fn head_refused(&mut self) {
        self.phase = Phase::Refused;
        self.deadline = Some(Instant::now() + self.limits.write_timeout);
    }

    /// True if the client may not have sent all of the last request.
    pub fn may_send_more(&self) -> bool {
        self.may_send_more || self.is_refused()
    }

    /// The server ends: heads that do not arrive must not hold it up.
    pub fn drain(&mut self) {
        self.limits.head_timeout = self.limits.head_timeout.min(DRAIN_HEAD);
        if self.phase == Phase::Head {
            let end = Instant::now() + self.limits.head_timeout;
            self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.min(end)));
        }
    }

    pub fn is_refused(&self) -> bool {
        self.phase == Phase::Refused
    }

    /// hyper has taken the whole answer.
    pub fn answer_taken(&mut self) {
        if let Phase::Answer { taken } = &mut self.phase {
            *taken = true;
        }
    }

    /// The socket took `bytes`. They extend the deadline, but to no more than the write timeout from now: the system
    /// takes megabytes from a client that reads nothing.
    pub fn bytes_sent(&mut self, bytes: usize) {
        if let Phase::Answer { .. } = self.phase {
            self.rate_deadline += Duration::from_secs_f64(bytes as f64 / ANSWER_BYTES_PER_SECOND_MIN as f64);
            self.deadline = Some(self.rate_deadline.min(Instant::now() + self.limits.write_timeout));
        }
    }

    /// The socket has taken everything that hyper had to write.
    pub fn flushed(&mut self) {
        if self.phase == (Phase::Answer { taken: true }) {
            self.held.clear();
            self.phase = Phase::Idle;
            self.deadline = Some(Instant::now() + self.limits.idle_timeout);
        }
    }
}

/// The deadlines that socket, service and task of a connection share. All run in one task, so the lock is never
/// contended.
#[derive(Clone, Debug)]
pub struct SharedDeadlines(Arc<Mutex<ConnectionDeadlines>>);

impl SharedDeadlines {
    pub fn new(deadlines: ConnectionDeadlines) -> Self {
        Self(Arc::new(Mutex::new(deadlines)))
    }

    pub fn get(&self) -> MutexGuard<'_, ConnectionDeadlines> {
        // A panic while it is locked also ends the connection, so a wrong deadline does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn new() -> ConnectionDeadlines {
        let limits = ConnectionLimits {
            connections_max: 1,
            head_timeout: 20 * SECOND,
            idle_timeout: 75 * SECOND,
            write_timeout: 30 * SECOND,
        };
        ConnectionDeadlines::new(limits, Instant::now())
    }

    fn left(deadlines: &ConnectionDeadlines) -> Option<u64> {
        deadlines.deadline().map(|at| (at - Instant::now()).as_secs())
    }

    fn idle_in(deadlines: &ConnectionDeadlines) -> Option<Duration> {
        deadlines.idle_from().map(|at| at - Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn every_phase_has_a_deadline() {
        let mut deadlines = new();
        assert_eq!(idle_in(&deadlines), Some(SLOW_HEAD), "no request has arrived");
        tokio::time::advance(5 * SECOND).await;
        deadlines.bytes_received();
        assert_eq!(left(&deadlines), Some(15), "the first head counts from the accept");
        tokio::time::advance(5 * SECOND).await;
        deadlines.bytes_received();
        assert_eq!(left(&deadlines), Some(10), "further bytes give no more time");
        deadlines.request_started();
        deadlines.bytes_received();
        assert_eq!(left(&deadlines), None, "a body has the deadline of its request");
        assert_eq!(idle_in(&deadlines), None);
        deadlines.answer_started(None, false);
        assert_eq!(left(&deadlines), Some(30));
        deadlines.bytes_sent(100 * ANSWER_BYTES_PER_SECOND_MIN);
        assert_eq!(left(&deadlines), Some(30), "the system's buffers give no time");
        tokio::time::advance(25 * SECOND).await;
        deadlines.bytes_sent(1);
        assert_eq!(left(&deadlines), Some(30), "a client that reads gets more time");
        for _ in 0..4 {
            tokio::time::advance(25 * SECOND).await;
            deadlines.bytes_sent(1);
        }
        assert_eq!(left(&deadlines), Some(5), "but not if it reads too slowly");
        deadlines.flushed();
        assert_eq!(left(&deadlines), Some(5), "only a part was flushed");
        deadlines.answer_taken();
        deadlines.flushed();
        assert_eq!(left(&deadlines), Some(75), "idle");
        assert_eq!(idle_in(&deadlines), Some(Duration::ZERO));
        tokio::time::advance(70 * SECOND).await;
        deadlines.bytes_received();
        assert_eq!(left(&deadlines), Some(20), "a later head counts from its first byte");
        assert_eq!(idle_in(&deadlines), Some(SLOW_HEAD));
        tokio::time::advance(SECOND).await;
        deadlines.bytes_received();
        assert_eq!(
            idle_in(&deadlines),
            Some(SLOW_HEAD - SECOND),
            "further bytes give no more time"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_a_pipelined_request_is_not_idle() {
        let mut deadlines = new();
        deadlines.request_started();
        deadlines.answer_started(None, false);
        deadlines.answer_taken();
        deadlines.request_started();
        deadlines.flushed();
        assert_eq!(left(&deadlines), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_its_value_until_it_was_sent() {
        let mut deadlines = new();
        let value = Arc::new(());
        deadlines.request_started();
        deadlines.answer_started(Some(Held::new(Arc::clone(&value))), false);
        deadlines.flushed();
        deadlines.answer_taken();
        assert_eq!(Arc::strong_count(&value), 2);
        deadlines.flushed();
        assert_eq!(Arc::strong_count(&value), 1);
        deadlines.request_started();
        deadlines.answer_started(Some(Held::new(Arc::clone(&value))), false);
        drop(deadlines);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
