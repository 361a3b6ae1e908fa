//! The output tensors by name.

use serde::Serialize;

use crate::tasks::fill_mask::Prediction;

/// An output tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    TextIndex,
    MaskIndex,
    Score,
    Token,
    TokenStr,
    Sequence,
}

impl Output {
    /// The order of the outputs if a request does not choose.
    pub const ALL: [Self; 6] = [
        Self::TextIndex,
        Self::MaskIndex,
        Self::Score,
        Self::Token,
        Self::TokenStr,
        Self::Sequence,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::TextIndex => "text_index",
            Self::MaskIndex => "mask_index",
            Self::Score => "score",
            Self::Token => "token",
            Self::TokenStr => "token_str",
            Self::Sequence => "sequence",
        }
    }

    pub fn datatype(self) -> &'static str {
        match self {
            Self::TextIndex | Self::MaskIndex | Self::Token => "INT32",
            Self::Score => "FP32",
            Self::TokenStr | Self::Sequence => "BYTES",
        }
    }

    /// The datatype in the notation of Triton's model configuration.
    pub fn config_type(self) -> &'static str {
        match self {
            Self::TextIndex | Self::MaskIndex | Self::Token => "TYPE_INT32",
            Self::Score => "TYPE_FP32",
            Self::TokenStr | Self::Sequence => "TYPE_STRING",
        }
    }

    /// `[rows]` for the outputs of a mask, `[rows, columns]` for the outputs of its predictions.
    pub fn shape<T>(self, rows: T, columns: T) -> Vec<T> {
        match self {
            Self::TextIndex | Self::MaskIndex => vec![rows],
            Self::Score | Self::Token | Self::TokenStr | Self::Sequence => vec![rows, columns],
        }
    }

    /// The elements in row-major order.
    pub fn data<'a>(self, rows: &[Row<'a>]) -> Data<'a> {
        let predictions = || rows.iter().flat_map(|row| row.predictions);
        match self {
            Self::TextIndex => Data::Int32(rows.iter().map(|row| index(row.text)).collect()),
            Self::MaskIndex => Data::Int32(rows.iter().map(|row| index(row.mask)).collect()),
            Self::Score => Data::Fp32(predictions().map(|p| p.score).collect()),
            Self::Token => Data::Int32(predictions().map(|p| index(p.token as usize)).collect()),
            Self::TokenStr => Data::Bytes(predictions().map(|p| p.token_str.as_str()).collect()),
            Self::Sequence => Data::Bytes(predictions().map(|p| p.sequence.as_str()).collect()),
        }
    }
}

fn index(value: usize) -> i32 {
    i32::try_from(value).expect("texts, masks and tokens are far fewer")
}

/// One mask of one text.
pub struct Row<'a> {
    /// Index of the text in the request.
    pub text: usize,
    /// Index of the mask in that text.
    pub mask: usize,
    /// Every row has the same number of predictions.
    pub predictions: &'a [Prediction],
}

/// The elements of a tensor; a flat list in JSON.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Data<'a> {
    Int32(Vec<i32>),
    Fp32(Vec<f32>),
    Bytes(Vec<&'a str>),
}

impl Data<'_> {
    /// Appends the elements in the form of the binary extension: little-endian, each string after its length.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int32(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
            Self::Fp32(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
            Self::Bytes(values) => {
                for value in values {
                    let length = u32::try_from(value.len()).expect("a text is bounded by its request's body");
                    out.extend(length.to_le_bytes());
                    out.extend(value.as_bytes());
                }
            }
        }
    }
}
