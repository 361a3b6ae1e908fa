//! The task that a request of fill-mask is, with its options.

/// The task that a request of fill-mask is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The most probable tokens for each mask.
    #[default]
    Tokens,
    /// Targets are whole words.
    Words(WordMethod),
    /// The masks of a text are filled together.
    Joint(JointOptions),
    /// Tokens of the text are read in place of masks.
    Positions(Which),
}

/// The combination of the scores of a word's tokens. Each is the sum over the tokens of the word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WordMethod {
    /// Each token with those before it in place and those after it masked: the chain rule.
    #[default]
    LeftToRight,
    /// Each token with all others of the word in place.
    Pll,
}

/// The order in which masks are filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    LeftToRight,
    /// The mask next whose most probable token has the highest probability.
    MostCertainFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JointOptions {
    pub beam: usize,
    pub order: Order,
}

impl Default for JointOptions {
    fn default() -> Self {
        Self {
            beam: 8,
            order: Order::default(),
        }
    }
}

/// The tokens of a text that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Indices of tokens, counted without special tokens.
    List(Vec<usize>),
}
