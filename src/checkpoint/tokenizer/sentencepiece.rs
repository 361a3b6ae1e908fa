//! SentencePiece model files: pieces with scores, and the table of characters.
//!
//! The file is a protocol buffer, `ModelProto` of `sentencepiece_model.proto`. Its fields that count here: `pieces` (1)
//! with `piece` (1), `score` (2) and `type` (3), and `normalizer_spec` (3) with `precompiled_charsmap` (2).

use tokenizers::AddedToken;
use tokenizers::normalizers::Precompiled;

use super::class::Class;
use super::settings::Settings;
use super::unigram::Parts;

/// The type of a piece that no text contains, such as `<s>`.
const CONTROL: u64 = 3;
/// The type of a piece that a text contains as it is.
const USER_DEFINED: u64 = 4;

/// Reads a model file for a class of Unigram tokenizers: its parts, and the tokens that it adds.
pub fn read(file: &[u8], class: Class, settings: &Settings) -> Result<(Parts, Vec<AddedToken>), String> {
    let model = Model::parse(file).ok_or("it is not a SentencePiece model")?;
    let characters = match model.characters {
        [] => None,
        bytes => Some(Precompiled::from(bytes).map_err(|e| e.to_string())?),
    };
    let added = model.pieces.iter().filter_map(|piece| match piece.kind {
        CONTROL => Some(AddedToken::from(piece.text, true).normalized(false)),
        // RemBERT's class makes them special.
        USER_DEFINED => Some(AddedToken::from(piece.text, class == Class::RemBert).normalized(false)),
        _ => None,
    });
    let parts = Parts {
        pieces: vocabulary(&model, class, settings),
        characters,
        post_processor: None,
    };
    Ok((parts, added.collect()))
}

/// The pieces with the special tokens where transformers puts them: fairseq's vocabularies begin with others.
fn vocabulary(model: &Model<'_>, class: Class, settings: &Settings) -> Vec<(String, f64)> {
    let special = |name: &str| match settings.special(name) {
        Some(token) => token.content.clone(),
        None => class.default_token(name).unwrap_or_default().to_owned(),
    };
    let (first, skipped): (Vec<(String, f64)>, usize) = match class {
        Class::XlmRoberta => {
            let names = ["bos_token", "pad_token", "eos_token", "unk_token"];
            (names.map(|name| (special(name), 0.0)).to_vec(), 3)
        }
        Class::Camembert => {
            let tokens = [
                ("<s>NOTUSED".to_owned(), 0.0),
                (special("pad_token"), 0.0),
                ("</s>NOTUSED".to_owned(), 0.0),
                (special("unk_token"), 0.0),
                ("<unk>NOTUSED".to_owned(), -100.0),
            ];
            (tokens.to_vec(), 1)
        }
        _ => (Vec::new(), 0),
    };
    let has_mask_at_end = !first.is_empty();
    let pieces = model.pieces.iter().skip(skipped);
    let mut all = first;
    all.extend(pieces.map(|piece| (piece.text.to_owned(), f64::from(piece.score))));
    all.extend(has_mask_at_end.then(|| (special("mask_token"), 0.0)));
    all
}

/// A model file.
#[derive(Default)]
struct Model<'a> {
    pieces: Vec<Piece<'a>>,
    characters: &'a [u8],
}

struct Piece<'a> {
    text: &'a str,
    score: f32,
    kind: u64,
}

impl<'a> Model<'a> {
    /// `None` for a file that is not a protocol buffer of this form, or has no piece.
    fn parse(file: &'a [u8]) -> Option<Self> {
        let mut model = Self::default();
        for field in Message(file) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.push(Piece::parse(piece)?),
                (3, Value::Bytes(normalizer)) => {
                    for field in Message(normalizer) {
                        if let (2, Value::Bytes(characters)) = field? {
                            model.characters = characters;
                        }
                    }
                }
                _ => {}
            }
        }
        (!model.pieces.is_empty()).then_some(model)
    }
}

impl<'a> Piece<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let mut piece = Self {
            text: "",
            score: 0.0,
            kind: 1,
        };
        for field in Message(message) {
            match field? {
                (1, Value::Bytes(text)) => piece.text = std::str::from_utf8(text).ok()?,
                (2, Value::Fixed32(bits)) => piece.score = f32::from_le_bytes(bits),
                (3, Value::Number(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        piece.score.is_finite().then_some(piece)
    }
}

/// The value of a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64,
}

/// The fields of a message, each with its number: `None` for bytes that are no field, which end the iteration.
struct Message<'a>(&'a [u8]);

impl<'a> Iterator for Message<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Message<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => {
                self.bytes(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.number()?;
                Value::Bytes(self.bytes(usize::try_from(length).ok()?)?)
            }
            5 => Value::Fixed32(self.bytes(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((key >> 3, value))
    }

    /// A number of seven bits in each byte, the lowest first; the eighth bit says that more follow.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pieces and a table of characters, with a field of each other kind between them.
    const FILE: &[u8] = b"\x0a\x0a\x0a\x03<s>\x15\0\0\0\0\x18\x03\
        \x10\x96\x01\x19\0\0\0\0\0\0\0\0\
        \x0a\x0a\x0a\x03abc\x15\0\0\xc0\xbf\
        \x1a\x04\x12\x02xy";

    #[test]
    fn pieces_and_characters_are_read() {
        // The length of the first piece counts its type too.
        let mut file = FILE.to_vec();
        file[1] = 0x0c;
        let model = Model::parse(&file).unwrap();
        let pieces: Vec<_> = model.pieces.iter().map(|p| (p.text, p.score, p.kind)).collect();
        assert_eq!(pieces, [("<s>", 0.0, CONTROL), ("abc", -1.5, 1)]);
        assert_eq!(model.characters, b"xy");
    }

    #[test]
    fn a_damaged_file_is_refused_or_read_without_a_panic() {
        let mut file = FILE.to_vec();
        file[1] = 0x0c;
        for end in 0..file.len() {
            drop(Model::parse(&file[..end]));
        }
        for bit in 0..8 * file.len() {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            drop(Model::parse(&flipped));
        }
        assert!(Model::parse(b"").is_none());
        assert!(Model::parse(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f").is_none());
        assert!(Model::parse(b"{\"version\": \"1.0\"}").is_none());
    }
}
