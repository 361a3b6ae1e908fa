//! The JSON body of a fill-mask request, in the form of Hugging Face's inference API.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Error;
use super::json::{JsonObject, Name, OneOrMany, WholeNumber, json_error};
use super::mode::{Joint, Positions, TargetMethod, TargetMode, mode};
use super::truncation::{Direction, TokenizerKwargs, TruncationName, length_rule};
use crate::tasks::fill_mask::{Parameters, Request};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    inputs: OneOrMany,
    #[serde(default)]
    parameters: Option<JsonObject<BodyParameters>>,
    truncate: Option<bool>,
    truncation_direction: Option<Name<Direction>>,
    /// Options of the hub's API, such as `wait_for_model`, have no meaning here.
    #[serde(default, rename = "options")]
    _options: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyParameters {
    top_k: Option<WholeNumber>,
    targets: Option<OneOrMany>,
    truncation: Option<Name<TruncationName>>,
    tokenizer_kwargs: Option<JsonObject<TokenizerKwargs>>,
    renormalize: Option<bool>,
    target_mode: Option<Name<TargetMode>>,
    target_method: Option<Name<TargetMethod>>,
    joint: Option<Joint>,
    positions: Option<Positions>,
}

/// Parses the body of a fill-mask request.
///
/// # Errors
/// [`Error`] says what is wrong and where.
pub fn parse_json(body: &[u8]) -> Result<Request, Error> {
    let JsonObject(body): JsonObject<Body> = serde_json::from_slice(body).map_err(|error| {
        json_error(
            &error,
            "a fill-mask request",
            "Send {\"inputs\": \"a text with a mask\"}",
        )
    })?;
    let parameters = body
        .parameters
        .map(|JsonObject(parameters)| parameters)
        .unwrap_or_default();
    Ok(Request {
        texts: body.inputs.texts()?,
        parameters: Parameters {
            top_k: parameters.top_k.map(parse_top_k).transpose()?,
            targets: parameters.targets.map(|targets| targets.strings),
            length: length_rule(
                parameters.truncation,
                parameters.tokenizer_kwargs,
                body.truncate,
                body.truncation_direction,
            )?,
            renormalize: parameters.renormalize.unwrap_or(false),
            mode: mode(
                parameters.target_mode,
                parameters.target_method,
                parameters.joint,
                parameters.positions,
            )?,
        },
    })
}

/// `top_k` of a JSON body. The task checks it against the model.
pub fn parse_top_k(WholeNumber(top_k): WholeNumber) -> Result<usize, Error> {
    usize::try_from(top_k)
        .map_err(|_| Error::bad_request("bad_top_k", format!("top_k is {top_k}; it must be 1 or more.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::fill_mask::Mode;
    use crate::tasks::{joint, positions, words};
    use crate::text::{LengthRule, Truncation};

    fn parse(body: &str) -> Result<Request, String> {
        parse_json(body.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn top_k_is_a_whole_number_in_any_notation() {
        let top_k = |number: &str| {
            let body = format!(r#"{{"inputs": "a", "parameters": {{"top_k": {number}}}}}"#);
            parse(&body).map(|request| request.parameters.top_k)
        };
        for (number, value) in [("2", 2), ("2.0", 2), ("1e2", 100)] {
            assert_eq!(top_k(number), Ok(Some(value)), "{number}");
        }
        for number in ["2.5", "1e30", "18446744073709551615", "\"2\"", "true", "[2]"] {
            let error = top_k(number).unwrap_err();
            assert!(error.contains("expected a whole number"), "{number}: {error}");
        }
        assert!(top_k("-2.0").unwrap_err().contains("top_k is -2"));
    }

    #[test]
    fn json_inputs_are_a_string_or_a_list() {
        let request = parse(
            r#"{"inputs": ["a", "b"], "parameters": {"top_k": 3, "targets": "x"}, "options": {"use_cache": false}}"#,
        )
        .unwrap();
        assert_eq!(request.texts, ["a", "b"]);
        assert_eq!(request.parameters.top_k, Some(3));
        assert_eq!(request.parameters.targets, Some(vec!["x".to_owned()]));
        let request = parse(r#"{"inputs": "a", "parameters": {"top_k": null, "targets": ["x", "y"]}}"#).unwrap();
        assert_eq!(request.parameters.top_k, None);
        assert_eq!(request.parameters.targets.unwrap(), ["x", "y"]);
        assert_eq!(
            parse(r#"{"inputs": "a", "parameters": null}"#).unwrap().parameters,
            Parameters::default()
        );
    }

    #[test]
    fn truncation_has_three_forms_of_which_one_is_sent() {
        let length = |fields: &str| {
            let body = format!(r#"{{"inputs": "a", {fields}}}"#);
            parse(&body).map(|request| request.parameters.length)
        };
        let (right, none) = (LengthRule::truncate(Truncation::Right), LengthRule::default());
        let as_tokenizer = LengthRule::truncate(Truncation::AsTokenizer);
        let to_9 = LengthRule {
            max_length: Some(9),
            ..as_tokenizer
        };
        let kwargs = |kwargs: &str| length(&format!(r#""parameters": {{"tokenizer_kwargs": {{{kwargs}}}}}"#));
        for (given, expected) in [
            (length(r#""parameters": {"truncation": "right"}"#), right),
            (length(r#""parameters": {"truncation": "error"}"#), none),
            (
                length(r#""parameters": {"truncation": "around_mask"}"#),
                LengthRule::truncate(Truncation::AroundMask),
            ),
            (length(r#""truncate": true"#), right),
            (length(r#""truncate": false"#), none),
            (
                length(r#""truncate": true, "truncation_direction": "Left""#),
                LengthRule::truncate(Truncation::Left),
            ),
            (kwargs(r#""truncation": true"#), as_tokenizer),
            (kwargs(r#""truncation": true, "max_length": 9"#), to_9),
            (kwargs(r#""truncation": "only_first", "max_length": 9"#), to_9),
            (kwargs(r#""max_length": 9"#), to_9),
            (kwargs(r#""max_length": 9, "padding": "max_length""#), none),
            (kwargs(r#""max_length": 9, "truncation": "do_not_truncate""#), none),
            (kwargs(""), none),
        ] {
            assert_eq!(given, Ok(expected));
        }
        for (refused, named) in [
            (kwargs(r#""max_length": -1"#), "max_length is -1"),
            (kwargs(r#""truncation": "only_second""#), "truncation must be true"),
            (kwargs(r#""stride": 1"#), "unknown field `stride`"),
            (
                length(r#""parameters": {"truncation": "middle"}"#),
                "unknown variant `middle`",
            ),
            (
                length(r#""truncate": true, "parameters": {"truncation": "left"}"#),
                "more than one form",
            ),
        ] {
            let error = refused.unwrap_err();
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn the_parameters_choose_the_task() {
        let mode = |parameters: &str| {
            let body = format!(r#"{{"inputs": "a", "parameters": {{{parameters}}}}}"#);
            parse(&body).map(|request| request.parameters.mode)
        };
        let joint = |beam, order| Mode::Joint(joint::Options { beam, order });
        for (parameters, expected) in [
            ("", Mode::Tokens),
            (
                r#""target_mode": "token", "joint": false, "positions": "masks""#,
                Mode::Tokens,
            ),
            (r#""target_mode": "word""#, Mode::Words(words::Method::LeftToRight)),
            (
                r#""target_mode": "word", "target_method": "pll""#,
                Mode::Words(words::Method::Pll),
            ),
            (r#""joint": true"#, joint(8, joint::Order::LeftToRight)),
            (
                r#""joint": {"order": "most_certain_first", "beam": 3}"#,
                joint(3, joint::Order::MostCertainFirst),
            ),
            (r#""positions": "all""#, Mode::Positions(positions::Which::All)),
            (
                r#""positions": [3, 1.0]"#,
                Mode::Positions(positions::Which::List(vec![3, 1])),
            ),
        ] {
            assert_eq!(mode(parameters), Ok(expected), "{parameters}");
        }
        for (parameters, named) in [
            (r#""target_mode": "word", "joint": true"#, "at most one of"),
            (r#""joint": true, "positions": "all""#, "at most one of"),
            (r#""target_method": "pll""#, "target_mode"),
            (r#""joint": {"width": 3}"#, "joint must be"),
            (r#""joint": []"#, "joint must be"),
            (r#""positions": "some""#, "positions must be"),
            (r#""positions": [-1]"#, "A position is -1"),
            (r#""joint": {"beam": -1}"#, "beam is -1"),
        ] {
            let error = mode(parameters).unwrap_err();
            assert!(error.contains(named), "{parameters}: {error}");
        }
        let many = format!(r#""positions": [{}0]"#, "0,".repeat(65_536));
        assert!(mode(&many).unwrap_err().contains("65537 token indexes"));
    }

    #[test]
    fn the_error_names_the_problem() {
        for (body, named) in [
            ("{", "not valid JSON"),
            ("[]", "expected an object"),
            (r#"["a"]"#, "expected an object"),
            (r#"{"inputs": "a", "parameters": []}"#, "expected an object"),
            ("{}", "missing field `inputs`"),
            (r#"{"inputs": 3}"#, "a string or a list of strings"),
            (r#"{"inputs": ["a", 3]}"#, "expected a string"),
            (r#"{"inputs": []}"#, "empty list"),
            (r#"{"inputs": "a", "topk": 3}"#, "unknown field `topk`"),
            (r#"{"inputs": "a", "parameters": {"topk": 3}}"#, "unknown field `topk`"),
            (r#"{"inputs": "a", "parameters": {"top_k": -1}}"#, "top_k is -1"),
            (
                r#"{"inputs": "a", "parameters": {"top_k": "3"}}"#,
                "invalid type: string",
            ),
            (
                r#"{"inputs": "a", "parameters": {"targets": 3}}"#,
                "a string or a list of strings",
            ),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(named), "{body}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
    }
}
