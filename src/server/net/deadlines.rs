//! Until when a connection must do what.

use tokio::time::Instant;

use super::ConnectionLimits;

/// What a client that reads slowly must read in each second beyond the timeout.
const ANSWER_BYTES_PER_SECOND_MIN: usize = 64 * 1024;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing: no byte of the next request has come.
    Idle,
    /// The head of a request has begun to arrive.
    Head,
    /// A request is being answered; its own deadline holds, for its body too.
    Request,
    /// The answer is being sent.
    Answer {
        /// Whether hyper has taken all of it.
        taken: bool,
    },
}

/// What one connection is doing and until when; told by its socket and its service.
#[derive(Debug)]
pub struct Clock {
    limits: ConnectionLimits,
    phase: Phase,
    /// Whether this is the connection's first request.
    first: bool,
    deadline: Option<Instant>,
}

impl Clock {
    /// Of a connection that begins now.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            phase: Phase::Idle,
            first: true,
            deadline: Some(Instant::now() + limits.head_timeout),
        }
    }

    /// When the connection has taken too long; `None` while only a request's own deadline holds.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What would be too late then, for the log.
    pub fn awaited(&self) -> &'static str {
        match self.phase {
            Phase::Idle if !self.first => "the next request",
            Phase::Idle | Phase::Head => "the whole head of a request",
            Phase::Request => "an answer",
            Phase::Answer { .. } => "the client to read its answer",
        }
    }

    /// Whether the last answer was read and nothing has been asked since.
    pub fn is_between_requests(&self) -> bool {
        self.phase == Phase::Idle && !self.first
    }

    /// Bytes arrived.
    pub fn arrived(&mut self) {
        if self.phase != Phase::Idle {
            return;
        }
        self.phase = Phase::Head;
        // The first request's time has run since the accept.
        if !self.first {
            self.deadline = Some(Instant::now() + self.limits.head_timeout);
        }
    }

    /// A head is complete.
    pub fn request(&mut self) {
        (self.phase, self.first, self.deadline) = (Phase::Request, false, None);
    }

    /// There is an answer to send.
    pub fn answer(&mut self) {
        self.phase = Phase::Answer { taken: false };
        self.deadline = Some(Instant::now() + self.limits.write_timeout);
    }

    /// All of the answer waits to be sent.
    pub fn taken(&mut self) {
        if let Phase::Answer { taken } = &mut self.phase {
            *taken = true;
        }
    }

    /// The client, or the system for it, took `bytes`.
    pub fn sent(&mut self, bytes: usize) {
        if let (Phase::Answer { .. }, Some(deadline)) = (self.phase, &mut self.deadline) {
            *deadline += std::time::Duration::from_secs_f64(bytes as f64 / ANSWER_BYTES_PER_SECOND_MIN as f64);
        }
    }

    /// Everything that waited has been sent.
    pub fn flushed(&mut self) {
        if self.phase == (Phase::Answer { taken: true }) {
            self.phase = Phase::Idle;
            self.deadline = Some(Instant::now() + self.limits.idle_timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clock() -> Clock {
        Clock::new(ConnectionLimits {
            connections_max: 1,
            head_timeout: 20 * SECOND,
            idle_timeout: 75 * SECOND,
            write_timeout: 30 * SECOND,
        })
    }

    fn left(clock: &Clock) -> Option<u64> {
        clock.deadline().map(|at| (at - Instant::now()).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn every_phase_has_its_deadline() {
        let mut clock = clock();
        assert!(!clock.is_between_requests(), "nothing has been asked");
        tokio::time::advance(5 * SECOND).await;
        clock.arrived();
        assert_eq!(left(&clock), Some(15), "the first head counts from the accept");
        tokio::time::advance(5 * SECOND).await;
        clock.arrived();
        assert_eq!(left(&clock), Some(10), "further bytes give no more time");
        clock.request();
        clock.arrived();
        assert_eq!(left(&clock), None, "a body has its request's deadline");
        clock.answer();
        assert_eq!(left(&clock), Some(30));
        clock.sent(10 * ANSWER_BYTES_PER_SECOND_MIN);
        assert_eq!(left(&clock), Some(40), "who reads gets time to read on");
        clock.flushed();
        assert_eq!(left(&clock), Some(40), "a part was flushed, more will come");
        clock.taken();
        clock.flushed();
        assert_eq!(left(&clock), Some(75), "idle");
        assert!(clock.is_between_requests());
        tokio::time::advance(70 * SECOND).await;
        clock.arrived();
        assert_eq!(left(&clock), Some(20), "a later head counts from its first byte");
        assert!(!clock.is_between_requests());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_came_before_the_last_answer_left_is_no_idleness() {
        let mut clock = clock();
        clock.request();
        clock.answer();
        clock.taken();
        clock.request();
        clock.flushed();
        assert_eq!(left(&clock), None);
    }
}
