//! Connections: admission, time limits and closing.
//!
//! poem's own server has no timeout for the head of a request, and its accept loop spins when file descriptors run out.
//! So this module runs hyper connections itself and calls the endpoint with complete request heads. It speaks HTTP/1.1
//! only, which is what load balancers speak to their upstreams.
//!
//! | file | content |
//! |---|---|
//! | `accept` | the accept loop: connection limit, pause when descriptors run out, drain |
//! | `connection` | one connection: TLS handshake, requests, answers, early end |
//! | `deadline_io` | a socket that reports its traffic to the connection's deadlines |
//! | `deadlines` | the state of a connection and its deadline |
//! | `held` | what an answer holds until it is sent |
//! | `linger` | the end of a connection whose client may still be sending |
//! | `slots` | connection slots, and which idle connection gives its slot up |
//! | `socket` | a TCP stream with a check for the departure of its client |
//! | `options` | limits and TLS |
//! | `refusal` | answers to heads that never reach the service |
//! | `tls` | certificate and key |

mod accept;
mod connection;
mod deadline_io;
mod deadlines;
mod held;
mod linger;
mod options;
mod refusal;
mod slots;
mod socket;
mod tls;

pub use accept::serve;
pub use held::Held;
pub use options::{ConnectionLimits, ConnectionOptions, EndSlowRequest};
pub use refusal::BadHead;
pub use tls::{Tls, TlsError, TlsFile};
