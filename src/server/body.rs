//! Reading a body: never more than the limits, and not past the request's deadline.

use futures_util::StreamExt;
use poem::Body;
use poem::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::app::App;
use super::error::ApiError;
use crate::engine::SLOW_BODY;
use crate::pipeline::{self, Admission, Deadline, MemoryError, Reservation, limit_in_words};
use crate::sys::excerpt;

/// Each chunk takes about a microsecond, also from a client that has left, while its bytes are in the system's buffers.
/// So their number is limited: this many of any size, and beyond them one for so many bytes.
const PARTS_MAX: usize = 10_000;
const PART_BYTES_MIN: usize = 64;

/// A body, and the memory that it takes.
pub struct ReadBody {
    pub bytes: Vec<u8>,
    pub memory: Reservation,
}

/// Refuses a body by its headers, before any of it is read.
///
/// # Errors
/// A compressed body (415), and one whose stated length exceeds the limit (413).
pub fn check(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    refuse_compressed(headers)?;
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length.is_some_and(|length| length > app.body_bytes_max as u64) {
        true => Err(too_large(app)),
        false => Ok(()),
    }
}

/// Admits a request and reads its body. While the queue is full, a request that arrives whole at once takes the place
/// of one that still arrives.
///
/// # Errors
/// A full queue (503), and those of [`read`].
pub async fn receive(app: &App, body: Body, deadline: Deadline) -> Result<(Admission, ReadBody), ApiError> {
    let pipeline = &app.pipeline;
    let (mut admission, body) = match pipeline.admit() {
        Ok(admission) => {
            let body = read(app, &admission, body, deadline).await?;
            (admission, body)
        }
        Err(pipeline::Error::Overloaded) if pipeline.engine().is_receiving() => {
            let Ok(body) = tokio::time::timeout(SLOW_BODY, read_all(app, body)).await else {
                return Err(pipeline::Error::Overloaded.into());
            };
            (pipeline.admit_whole()?, body?)
        }
        Err(error) => return Err(error.into()),
    };
    admission.settle()?;
    pipeline
        .reserve_planning(&mut admission, body.bytes.len(), deadline)
        .await?;
    Ok((admission, body))
}

/// Reads the whole body of an admitted request. Its memory is reserved as it arrives.
///
/// # Errors
/// A body that is too large (413), that does not arrive in time (408), or that breaks off (400); one that exceeds the
/// memory for all bodies, and a slow one whose place in the queue another request has taken (503).
async fn read(app: &App, admission: &Admission, body: Body, deadline: Deadline) -> Result<ReadBody, ApiError> {
    let read = async {
        tokio::select! {
            biased;
            read = read_all(app, body) => read,
            () = admission.displaced() => Err(match app.state.is_draining() {
                true => pipeline::Error::Stopped.into(),
                false => pipeline::Error::Overloaded.into(),
            }),
        }
    };
    match tokio::time::timeout_at(deadline.at, read).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            format!("The body did not arrive within {}.", limit_in_words(deadline.timeout)),
        )
        .loggable()),
    }
}

async fn read_all(app: &App, body: Body) -> Result<ReadBody, ApiError> {
    let mut read = ReadBody {
        bytes: Vec::new(),
        memory: app.pipeline.memory().reserve(0).map_err(pipeline::Error::from)?,
    };
    let mut parts = Box::pin(body.into_bytes_stream());
    let mut count = 0_usize;
    while let Some(part) = parts.next().await {
        count += 1;
        if count > PARTS_MAX + read.bytes.len() / PART_BYTES_MIN {
            return Err(ApiError::bad_request(
                "bad_body",
                format!("The body comes in chunks of less than {PART_BYTES_MIN} bytes; send larger chunks."),
            )
            .loggable());
        }
        let part =
            part.map_err(|error| ApiError::bad_request("bad_body", format!("The body cannot be read: {error}.")))?;
        if read.bytes.len() + part.len() > app.body_bytes_max {
            return Err(too_large(app));
        }
        read.append(&part, app.body_bytes_max).map_err(|full| {
            // Bodies that do not arrive would keep the memory until their deadline.
            app.pipeline.engine().displace_slow();
            pipeline::Error::from(full)
        })?;
    }
    Ok(read)
}

impl ReadBody {
    /// Appends a part. The buffer at least doubles when it grows, up to `bytes_max`, and is reserved before.
    fn append(&mut self, part: &[u8], bytes_max: usize) -> Result<(), MemoryError> {
        let (capacity, needed) = (self.bytes.capacity(), self.bytes.len() + part.len());
        if needed > capacity {
            let grown = (2 * capacity).min(bytes_max).max(needed);
            self.memory.grow(grown - capacity)?;
            self.bytes.reserve_exact(grown - self.bytes.len());
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }
}

fn too_large(app: &App) -> ApiError {
    let max = app.body_bytes_max;
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("The body is larger than the {max} bytes that are allowed; send less text at once."),
    )
    .loggable()
}

/// Bodies are not decompressed: a few kilobytes could exceed the memory of the machine.
fn refuse_compressed(headers: &HeaderMap) -> Result<(), ApiError> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(coding) = codings
        .into_iter()
        .find(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    else {
        return Ok(());
    };
    let coding = String::from_utf8_lossy(coding.as_bytes()).into_owned();
    let message = format!(
        "The body comes with the content encoding {:?}; send it uncompressed.",
        excerpt::name(&coding)
    );
    let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", message);
    Err(error.header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}
