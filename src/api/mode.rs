//! Parameters of fill-mask that choose another task than the most probable tokens for each mask.

use serde::Deserialize;

use super::Error;
use super::json::{JsonObject, Name, WholeNumber, indices, not_negative};
use crate::tasks::fill_mask::Mode;
use crate::tasks::{joint, positions, words};

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetMode {
    Token,
    Word,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetMethod {
    LeftToRight,
    Pll,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "joint must be true, false or an object with beam and order")]
pub enum Joint {
    Flag(bool),
    Options(JsonObject<JointOptions>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JointOptions {
    beam: Option<WholeNumber>,
    order: Option<Name<OrderName>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderName {
    LeftToRight,
    MostCertainFirst,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "positions must be \"masks\", \"all\" or a list of token indexes"
)]
pub enum Positions {
    Name(Name<PositionsName>),
    List(Vec<WholeNumber>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionsName {
    Masks,
    All,
}

impl Joint {
    /// `None` for `false`.
    fn options(self) -> Result<Option<joint::Options>, Error> {
        let JsonObject(JointOptions { beam, order }) = match self {
            Self::Flag(flag) => return Ok(flag.then(joint::Options::default)),
            Self::Options(options) => options,
        };
        let default = joint::Options::default();
        let beam = beam.map(|beam| not_negative(beam, "beam", "bad_joint")).transpose()?;
        Ok(Some(joint::Options {
            beam: beam.unwrap_or(default.beam),
            order: match order {
                None => default.order,
                Some(Name(OrderName::LeftToRight)) => joint::Order::LeftToRight,
                Some(Name(OrderName::MostCertainFirst)) => joint::Order::MostCertainFirst,
            },
        }))
    }
}

impl Positions {
    /// `None` for the masks.
    fn which(self) -> Result<Option<positions::Which>, Error> {
        match self {
            Self::Name(Name(PositionsName::Masks)) => Ok(None),
            Self::Name(Name(PositionsName::All)) => Ok(Some(positions::Which::All)),
            Self::List(list) => Ok(Some(positions::Which::List(indices(list, "A position")?))),
        }
    }
}

/// The task that the parameters choose.
///
/// # Errors
/// Parameters that choose more than one.
pub fn mode(
    target_mode: Option<Name<TargetMode>>,
    target_method: Option<Name<TargetMethod>>,
    joint: Option<Joint>,
    positions: Option<Positions>,
) -> Result<Mode, Error> {
    let is_word = target_mode.is_some_and(|Name(mode)| mode == TargetMode::Word);
    if target_method.is_some() && !is_word {
        return Err(Error::bad_request(
            "bad_parameters",
            "target_method is the method of whole words; set target_mode to \"word\", or leave it out.",
        ));
    }
    let method = match target_method {
        None | Some(Name(TargetMethod::LeftToRight)) => words::Method::LeftToRight,
        Some(Name(TargetMethod::Pll)) => words::Method::Pll,
    };
    let words = is_word.then_some(Mode::Words(method));
    let joint = joint.map(Joint::options).transpose()?.flatten().map(Mode::Joint);
    let positions = positions
        .map(Positions::which)
        .transpose()?
        .flatten()
        .map(Mode::Positions);
    let mut modes = [words, joint, positions].into_iter().flatten();
    match (modes.next(), modes.next()) {
        (None, _) => Ok(Mode::Tokens),
        (Some(mode), None) => Ok(mode),
        _ => Err(Error::bad_request(
            "bad_parameters",
            "A request has at most one of target_mode \"word\", joint and positions; send several requests.",
        )),
    }
}
