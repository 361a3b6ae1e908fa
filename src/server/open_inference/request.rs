//! The body of an inference request: JSON, with the tensor of texts in it or in binary after it.

use std::borrow::Cow;
use std::fmt::Formatter;
use std::time::Duration;

use poem::http::HeaderName;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::tensor::Output;
use crate::api::{Count, Error, JsonObject, WholeNumber, json_error, parse_top_k, push_string, without_bom};
use crate::sys::excerpt;
use crate::tasks::fill_mask::{Parameters, Request};

/// The name of the only input.
pub const INPUT: &str = "text";

/// Length of the JSON in a body with binary tensors after it.
pub const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A parsed inference request.
#[derive(Debug, PartialEq, Eq)]
pub struct InferRequest {
    pub request: Request,
    /// The time limit of the client.
    pub timeout: Option<Duration>,
    pub response: ResponseFormat,
}

/// The requested form of the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseFormat {
    /// Repeated in the answer.
    pub id: Option<String>,
    /// The tensors to send, in this order.
    pub outputs: Vec<RequestedOutput>,
}

/// One tensor of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestedOutput {
    pub output: Output,
    /// In binary after the JSON instead of in it.
    pub binary: bool,
}

/// It is held until the answer is sent, and is not counted in the memory limit.
const ID_BYTES_MAX: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default)]
    id: Option<String>,
    inputs: Vec<JsonObject<BodyInput>>,
    #[serde(default)]
    outputs: Option<Vec<JsonObject<BodyOutput>>>,
    #[serde(default)]
    parameters: Option<JsonObject<BodyParameters>>,
    /// Some clients repeat the name and the version of the path here.
    #[serde(default, rename = "model_name")]
    _model_name: IgnoredAny,
    #[serde(default, rename = "model_version")]
    _model_version: IgnoredAny,
}

/// Unknown parameters are ignored, as the protocol demands.
#[derive(Default, Deserialize)]
struct BodyParameters {
    top_k: Option<WholeNumber>,
    targets: Option<Targets>,
    binary_data_output: Option<bool>,
    /// Microseconds, as in Triton; 0 means none.
    timeout: Option<Count>,
}

/// Parameters of the protocol are single values, so a string holds comma-separated words; a list is accepted too.
#[derive(Deserialize)]
#[serde(untagged, expecting = "targets must be comma-separated words, or a list of words")]
enum Targets {
    Words(String),
    List(Vec<String>),
}

impl Targets {
    fn words(self) -> Vec<String> {
        match self {
            Self::Words(words) => words.split(',').map(|word| word.trim().to_owned()).collect(),
            Self::List(list) => list,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyInput {
    name: String,
    shape: Vec<Count>,
    datatype: String,
    #[serde(default)]
    parameters: Option<JsonObject<TensorParameters>>,
    #[serde(default)]
    data: Option<Strings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyOutput {
    name: String,
    #[serde(default)]
    parameters: Option<JsonObject<TensorParameters>>,
}

/// Parameters of an input or an output. Unknown ones (such as `content_type`) are ignored: they belong to other
/// servers.
#[derive(Default, Deserialize)]
struct TensorParameters {
    binary_data_size: Option<Count>,
    binary_data: Option<bool>,
    shared_memory_region: Option<IgnoredAny>,
    classification: Option<IgnoredAny>,
}

impl TensorParameters {
    fn check(&self) -> Result<(), Error> {
        match (&self.shared_memory_region, &self.classification) {
            (Some(_), _) => Err(bad(
                "Shared memory is not supported; send and receive tensors in the body.",
            )),
            (_, Some(_)) => Err(bad(
                "The classification extension is not supported; use the parameter top_k.",
            )),
            _ => Ok(()),
        }
    }
}

/// Strings, flat or nested as the shape says; stored flat.
struct Strings(Vec<String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut strings = Vec::new();
        Flatten(&mut strings).deserialize(deserializer)?;
        Ok(Self(strings))
    }
}

struct Flatten<'a>(&'a mut Vec<String>);

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("strings, or lists of strings")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        push_string(self.0, text.to_owned())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Flatten(self.0))?.is_some() {}
        Ok(())
    }
}

impl InferRequest {
    /// Parses a body whose first `json_length` bytes are JSON; the whole body if `None`.
    pub fn parse(body: &[u8], json_length: Option<usize>) -> Result<Self, Error> {
        let (json, binary) = match json_length {
            None => (body, None),
            Some(length) => {
                let (json, binary) = body.split_at_checked(length).ok_or_else(|| {
                    bad(format!(
                        "{HEADER_LENGTH} is {length}, but the body has {} bytes.",
                        body.len()
                    ))
                })?;
                (json, Some(binary))
            }
        };
        let hint = "Send {\"inputs\": [{\"name\": \"text\", \"shape\": [1], \"datatype\": \"BYTES\", \
                    \"data\": [\"a text with a mask\"]}]}";
        let JsonObject(request): JsonObject<Body> = serde_json::from_slice(without_bom(json))
            .map_err(|error| json_error(&error, "an inference request", hint))?;
        let parameters = request.parameters.map(|JsonObject(given)| given).unwrap_or_default();
        let outputs = requested(request.outputs, parameters.binary_data_output.unwrap_or(false))?;
        if request.id.as_ref().is_some_and(|id| id.len() > ID_BYTES_MAX) {
            let message = format!("The id is longer than {ID_BYTES_MAX} bytes; send a shorter one.");
            return Err(Error::bad_request("bad_request", message));
        }
        let timeout = parameters
            .timeout
            .map(|Count(micros)| micros)
            .filter(|&micros| micros > 0);
        Ok(Self {
            request: Request {
                texts: texts(request.inputs, binary)?,
                parameters: Parameters {
                    top_k: parameters.top_k.map(parse_top_k).transpose()?,
                    targets: parameters.targets.map(Targets::words),
                    ..Parameters::default()
                },
            },
            timeout: timeout.map(Duration::from_micros),
            response: ResponseFormat {
                id: request.id,
                outputs,
            },
        })
    }
}

/// The elements of the input, from the JSON or from the binary data.
fn texts(inputs: Vec<JsonObject<BodyInput>>, binary: Option<&[u8]>) -> Result<Vec<String>, Error> {
    let [JsonObject(input)] = <[JsonObject<BodyInput>; 1]>::try_from(inputs).map_err(|inputs| {
        bad(format!(
            "There must be one input, {INPUT:?}; there are {}.",
            inputs.len()
        ))
    })?;
    if input.name != INPUT {
        return Err(bad(format!(
            "The input is called {INPUT:?}, not {:?}.",
            excerpt::name(&input.name)
        )));
    }
    if input.datatype != "BYTES" {
        return Err(bad(format!(
            "The input {INPUT:?} is of datatype BYTES, not {:?}.",
            excerpt::name(&input.datatype)
        )));
    }
    // Triton's batches of single elements have a second dimension of 1.
    let shape: Vec<u64> = input.shape.iter().map(|&Count(size)| size).collect();
    let (&[elements] | &[elements, 1]) = shape.as_slice() else {
        let shape = format!("{shape:?}");
        return Err(bad(format!(
            "The shape of {INPUT:?} must be [texts] or [texts, 1]; it is {}.",
            excerpt::name(&shape)
        )));
    };
    let parameters = input.parameters.map(|JsonObject(given)| given).unwrap_or_default();
    parameters.check()?;
    let texts = match (input.data, parameters.binary_data_size, binary) {
        (Some(Strings(texts)), None, None | Some([])) => texts,
        (None, Some(Count(size)), Some(binary)) => from_binary(binary, size)?,
        (None, Some(_), None) => {
            return Err(bad(format!(
                "The input has a binary_data_size, so the header {HEADER_LENGTH} must give the length of the JSON."
            )));
        }
        (None, None, _) => return Err(bad(format!("The input {INPUT:?} has no data."))),
        (Some(_), _, _) => {
            return Err(bad(format!(
                "The input {INPUT:?} has data in the JSON and in binary after it; send only one."
            )));
        }
    };
    if texts.len() as u64 != elements {
        return Err(bad(format!(
            "The shape of {INPUT:?} says {elements} elements; its data has {}.",
            texts.len()
        )));
    }
    match texts.is_empty() {
        true => Err(Error::bad_request("empty", "There is no text; send at least one.")),
        false => Ok(texts),
    }
}

/// Decodes strings of the binary extension: each after its length, 32 bits, little-endian.
fn from_binary(mut rest: &[u8], size: u64) -> Result<Vec<String>, Error> {
    if rest.len() as u64 != size {
        return Err(bad(format!(
            "The input's binary_data_size is {size}; there are {} bytes after the JSON.",
            rest.len()
        )));
    }
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let element = texts.len();
        let cut_off = || bad(format!("The binary data ends inside element {element}."));
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let (text, behind) = behind
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .ok_or_else(cut_off)?;
        let text = std::str::from_utf8(text).map_err(|e| {
            let at = e.valid_up_to();
            let message = format!("Element {element} is not valid UTF-8 at byte {at}; send it in UTF-8.");
            Error::bad_request("not_utf8", message)
        })?;
        texts.push(text.to_owned());
        rest = behind;
    }
    Ok(texts)
}

fn requested(outputs: Option<Vec<JsonObject<BodyOutput>>>, all_binary: bool) -> Result<Vec<RequestedOutput>, Error> {
    let Some(outputs) = outputs.filter(|outputs| !outputs.is_empty()) else {
        let of = |output| RequestedOutput {
            output,
            binary: all_binary,
        };
        return Ok(Output::ALL.map(of).to_vec());
    };
    let mut requested: Vec<RequestedOutput> = Vec::new();
    for JsonObject(wanted) in outputs {
        let Some(output) = Output::ALL.into_iter().find(|output| output.name() == wanted.name) else {
            let names = Output::ALL.map(Output::name).join(", ");
            return Err(bad(format!(
                "There is no output {:?}; there are {names}.",
                excerpt::name(&wanted.name)
            )));
        };
        // An output may be large, so a request cannot multiply its answer.
        if requested.iter().any(|already| already.output == output) {
            return Err(bad(format!("The output {:?} is requested twice.", wanted.name)));
        }
        let parameters = wanted.parameters.map(|JsonObject(given)| given).unwrap_or_default();
        parameters.check()?;
        requested.push(RequestedOutput {
            output,
            binary: parameters.binary_data.unwrap_or(all_binary),
        });
    }
    Ok(requested)
}

fn bad(message: impl Into<Cow<'static, str>>) -> Error {
    Error::bad_request("bad_request", message)
}

/// Reads the body of an inference request without its header: the first `json_length` bytes are JSON, or all of it.
///
/// # Errors
/// [`Error`] with the field that is wrong.
pub fn parse_infer(body: &[u8], json_length: Option<usize>) -> Result<Request, Error> {
    InferRequest::parse(body, json_length).map(|parsed| parsed.request)
}
