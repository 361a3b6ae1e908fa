//! Tracing spans of a request in the queue and of a batch. The cargo feature `otel` exports them.

use tracing::span::Entered;
use tracing::{Span, debug_span};

/// The spans of one request while it waits; its sequences share them.
#[derive(Clone, Debug)]
pub struct RequestSpans {
    request: Span,
    /// Closes when the last sequence of the request has left the queue.
    queue: Span,
}

impl Default for RequestSpans {
    /// Disabled spans.
    fn default() -> Self {
        Self {
            request: Span::none(),
            queue: Span::none(),
        }
    }
}

impl RequestSpans {
    /// The current span is that of the request; its wait in the queue starts now.
    pub fn enter_queue() -> Self {
        Self {
            request: Span::current(),
            queue: debug_span!("queue"),
        }
    }

    pub fn leave_queue(&mut self) {
        self.queue = Span::none();
    }
}

/// One forward pass: a span of its own, linked with each request in it, and a span in each of these requests.
pub struct BatchSpans {
    batch: Span,
    _inference: Vec<Span>,
}

impl BatchSpans {
    /// Open until dropped. Neighbouring `requests` that are the same get one span.
    pub fn open<'a>(requests: impl Iterator<Item = &'a RequestSpans>, texts: usize, tokens: usize) -> Self {
        let batch = debug_span!(parent: None, "batch", texts, tokens);
        let mut inference = Vec::new();
        if !batch.is_disabled() {
            let mut last = None;
            for RequestSpans { request, .. } in requests {
                if request.id() != last {
                    last = request.id();
                    batch.follows_from(request);
                    let part = debug_span!(parent: request, "inference");
                    part.follows_from(&batch);
                    inference.push(part);
                }
            }
        }
        Self {
            batch,
            _inference: inference,
        }
    }

    /// Events on this thread belong to the batch.
    pub fn enter(&self) -> Entered<'_> {
        self.batch.enter()
    }
}
