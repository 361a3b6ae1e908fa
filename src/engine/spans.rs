//! Where a text's time goes, for who listens at debug: a cargo feature sends these spans to OpenTelemetry.

use tracing::span::Entered;
use tracing::{Span, debug_span};

/// The spans that a text is in while it waits; of one request, whose texts share them.
#[derive(Clone, Debug)]
pub struct Spans {
    request: Span,
    /// Ends when the last text of the request has left the queue.
    queue: Span,
}

impl Default for Spans {
    /// None.
    fn default() -> Self {
        Self {
            request: Span::none(),
            queue: Span::none(),
        }
    }
}

impl Spans {
    /// Of the request that is current, which begins to wait.
    pub fn begin() -> Self {
        Self {
            request: Span::current(),
            queue: debug_span!("queue"),
        }
    }

    /// It waits no longer.
    pub fn leave_queue(&mut self) {
        self.queue = Span::none();
    }
}

/// One forward pass: a span of its own, linked with each request that has a part in it, and one in each of these requests.
pub struct Pass {
    batch: Span,
    _inference: Vec<Span>,
}

impl Pass {
    /// Lasts until it is dropped; `items` are neighbours where they are of one request.
    pub fn begin<'a>(items: impl Iterator<Item = &'a Spans>, texts: usize, tokens: usize) -> Self {
        let batch = debug_span!(parent: None, "batch", texts, tokens);
        let mut inference = Vec::new();
        if !batch.is_disabled() {
            let mut last = None;
            for Spans { request, .. } in items {
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

    /// What is told on this thread is told of the pass.
    pub fn enter(&self) -> Entered<'_> {
        self.batch.enter()
    }
}
