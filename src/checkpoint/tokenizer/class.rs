//! The tokenizer classes of transformers: which one a model has, its files, and the defaults of its special tokens.

use crate::checkpoint::names::{
    MERGES, SENTENCEPIECE, SENTENCEPIECE_BPE, SPIECE, TOKENIZER, TOKENIZER_MODEL, VOCAB, VOCAB_JSON,
};

/// Rules by which the tokenizer is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// transformers' `BertTokenizer`: its settings take precedence over those of `tokenizer.json`.
    Bert,
    /// WordPiece of BERT with RoBERTa's special tokens.
    MpNet,
    /// `tokenizer.json` as it is, with BERT's special tokens around a text.
    ConvBert,
    /// Byte-level BPE.
    Roberta,
    /// BPE of BERT's words.
    Herbert,
    XlmRoberta,
    Camembert,
    Albert,
    RemBert,
    /// Letters of proteins.
    Esm,
    /// WordPiece or characters of Japanese words.
    BertJapanese,
    /// `tokenizer.json` as it is: transformers' `TokenizersBackend`, which has no special tokens of its own.
    Generic,
    /// Another class, of which `tokenizer.json` counts as it is.
    Other,
}

/// Names of [`Class::Generic`], without `Fast`.
const GENERIC_NAMES: [&str; 3] = ["PreTrainedTokenizer", "TokenizersBackend", "PythonBackend"];

/// Classes of transformers, without `Fast`. Those that are not listed are [`Class::Other`].
const NAMES: &[(&str, Class)] = &[
    ("BertTokenizer", Class::Bert),
    ("ConvBertTokenizer", Class::ConvBert),
    ("DistilBertTokenizer", Class::Bert),
    ("ElectraTokenizer", Class::Bert),
    ("LayoutLMTokenizer", Class::Bert),
    ("LxmertTokenizer", Class::Bert),
    ("MobileBertTokenizer", Class::Bert),
    ("SqueezeBertTokenizer", Class::Bert),
    ("MPNetTokenizer", Class::MpNet),
    ("RobertaTokenizer", Class::Roberta),
    ("BartTokenizer", Class::Roberta),
    ("LEDTokenizer", Class::Roberta),
    ("LongformerTokenizer", Class::Roberta),
    ("HerbertTokenizer", Class::Herbert),
    ("XLMRobertaTokenizer", Class::XlmRoberta),
    ("CamembertTokenizer", Class::Camembert),
    ("AlbertTokenizer", Class::Albert),
    ("RemBertTokenizer", Class::RemBert),
    ("EsmTokenizer", Class::Esm),
    ("BertJapaneseTokenizer", Class::BertJapanese),
];

/// Classes whose rules are in Python code, whatever `tokenizer.json` says.
const PYTHON_CLASSES: [&str; 36] = [
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertweetTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "ByT5Tokenizer",
    "CTRLTokenizer",
    "CanineTokenizer",
    "ClvpTokenizer",
    "CpmAntTokenizer",
    "CpmTokenizer",
    "DiaTokenizer",
    "FSMTTokenizer",
    "FastSpeech2ConformerTokenizer",
    "FlaubertTokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTSw3Tokenizer",
    "M2M100Tokenizer",
    "MarianTokenizer",
    "MgpstrTokenizer",
    "MyT5Tokenizer",
    "PLBartTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "ProphetNetTokenizer",
    "RagTokenizer",
    "RoCBertTokenizer",
    "RoFormerTokenizer",
    "SiglipTokenizer",
    "Speech2TextTokenizer",
    "SpeechT5Tokenizer",
    "TapasTokenizer",
    "VitsTokenizer",
    "Wav2Vec2CTCTokenizer",
    "Wav2Vec2PhonemeCTCTokenizer",
    "XLMTokenizer",
];

/// Model types and the class that they have if no file names one.
const MODEL_TYPES: &[(&str, Class)] = &[
    ("bert", Class::Bert),
    ("roberta", Class::Roberta),
    ("xlm-roberta", Class::XlmRoberta),
    ("camembert", Class::Camembert),
    ("roberta-prelayernorm", Class::Roberta),
    ("data2vec-text", Class::Roberta),
    ("ernie", Class::Bert),
    ("megatron-bert", Class::Bert),
    ("distilbert", Class::Bert),
    ("electra", Class::Bert),
    ("albert", Class::Albert),
    ("rembert", Class::RemBert),
    ("squeezebert", Class::Bert),
    ("mpnet", Class::MpNet),
    ("esm", Class::Esm),
    ("nomic_bert", Class::Bert),
    ("gte", Class::XlmRoberta),
    ("jina_embeddings_v3", Class::XlmRoberta),
];

/// Model types for which transformers takes `tokenizer.json` as it is, whatever class the files name.
const GENERIC_MODEL_TYPES: [&str; 2] = ["xlm-roberta-xl", "modernbert"];

const BERT_TOKENS: Defaults = [
    None,
    None,
    Some("[UNK]"),
    Some("[SEP]"),
    Some("[PAD]"),
    Some("[CLS]"),
    Some("[MASK]"),
];
const ROBERTA_TOKENS: Defaults = [
    Some("<s>"),
    Some("</s>"),
    Some("<unk>"),
    Some("</s>"),
    Some("<pad>"),
    Some("<s>"),
    Some("<mask>"),
];
const ALBERT_TOKENS: Defaults = [
    Some("[CLS]"),
    Some("[SEP]"),
    Some("<unk>"),
    Some("[SEP]"),
    Some("<pad>"),
    Some("[CLS]"),
    Some("[MASK]"),
];
const ESM_TOKENS: Defaults = [
    None,
    Some("<eos>"),
    Some("<unk>"),
    None,
    Some("<pad>"),
    Some("<cls>"),
    Some("<mask>"),
];

/// transformers' names of special tokens, in the order in which it adds them.
pub const SPECIAL_TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The contents of [`SPECIAL_TOKENS`] where no file has them.
pub type Defaults = [Option<&'static str>; 7];

impl Class {
    /// The class of a model: `class` is the `tokenizer_class` of its files, without `Fast`.
    ///
    /// # Errors
    /// The name of a class that is not supported.
    pub fn of(class: Option<&str>, model_type: Option<&str>) -> Result<Self, String> {
        let class = match (class, model_type) {
            (None, Some("roformer")) => Some("RoFormerTokenizer"),
            _ => class,
        };
        if model_type.is_some_and(|model_type| GENERIC_MODEL_TYPES.contains(&model_type)) {
            return Ok(Self::Generic);
        }
        if let Some(class) = class
            && PYTHON_CLASSES.contains(&class)
        {
            return Err(format!("tokenizer_class is \"{class}\", which is not supported"));
        }
        let named = |names: &[(&str, Self)], name: &str| {
            let found = names.iter().find(|(known, _)| *known == name);
            found.map(|(_, class)| *class)
        };
        Ok(match (class, model_type) {
            (Some(class), _) if GENERIC_NAMES.contains(&class) => Self::Generic,
            (Some(class), _) => named(NAMES, class).unwrap_or(Self::Other),
            (None, Some(model_type)) => named(MODEL_TYPES, model_type).unwrap_or(Self::Generic),
            (None, None) => Self::Bert,
        })
    }

    /// The files that the class is built from, if `has` says that they are there. `tokenizer.json` comes first where
    /// the class reads it.
    pub fn files(self, has: impl Fn(&str) -> bool) -> Option<&'static [&'static str]> {
        let sources: &[&[&str]] = match self {
            Self::Bert | Self::MpNet | Self::ConvBert => &[&[TOKENIZER], &[VOCAB]],
            Self::Roberta | Self::Herbert => &[&[TOKENIZER], &[VOCAB_JSON, MERGES]],
            Self::Esm | Self::BertJapanese => &[&[VOCAB]],
            Self::XlmRoberta | Self::Camembert => &[&[TOKENIZER], &[TOKENIZER_MODEL], &[SENTENCEPIECE_BPE]],
            Self::Albert => &[&[TOKENIZER], &[TOKENIZER_MODEL], &[SPIECE]],
            Self::RemBert => &[&[TOKENIZER], &[TOKENIZER_MODEL], &[SENTENCEPIECE]],
            Self::Generic | Self::Other => &[&[TOKENIZER]],
        };
        let mut sources = sources.iter().copied();
        sources.find(|files| files.iter().all(|file| has(file)))
    }

    /// True if the class reads this setting, which is true or false.
    pub fn reads(self, setting: &str) -> bool {
        let settings: &[&str] = match self {
            Self::Bert | Self::MpNet | Self::ConvBert => &["do_lower_case", "strip_accents", "tokenize_chinese_chars"],
            Self::Roberta | Self::XlmRoberta | Self::Camembert => &["add_prefix_space"],
            Self::Albert | Self::RemBert => &[
                "do_lower_case",
                "keep_accents",
                "add_prefix_space",
                "add_bos_token",
                "add_eos_token",
            ],
            Self::BertJapanese => &["do_lower_case", "do_word_tokenize", "do_subword_tokenize"],
            Self::Herbert | Self::Esm | Self::Generic | Self::Other => &[],
        };
        settings.contains(&setting)
    }

    /// The value of a setting that is null: `None` if the class takes it for absent.
    ///
    /// # Errors
    /// A setting that cannot be null: as in transformers, where the library's rules for BERT accept true and false
    /// only.
    pub fn null(self, setting: &str) -> Result<Option<bool>, String> {
        match self {
            _ if setting == "strip_accents" => Ok(None),
            Self::Bert | Self::MpNet | Self::ConvBert | Self::Roberta => Err(format!("{setting} is null")),
            _ => Ok(Some(false)),
        }
    }

    pub fn special_tokens(self) -> Defaults {
        match self {
            Self::Bert | Self::ConvBert | Self::BertJapanese | Self::Other => BERT_TOKENS,
            // For files that name no mask token.
            Self::Generic => [None, None, None, None, None, None, Some("[MASK]")],
            Self::MpNet => {
                let mut tokens = ROBERTA_TOKENS;
                tokens[2] = Some("[UNK]");
                tokens
            }
            Self::Roberta | Self::XlmRoberta | Self::Camembert => ROBERTA_TOKENS,
            Self::Herbert => {
                let mut tokens = ROBERTA_TOKENS;
                (tokens[0], tokens[1]) = (None, None);
                tokens
            }
            Self::Albert | Self::RemBert => ALBERT_TOKENS,
            Self::Esm => ESM_TOKENS,
        }
    }

    /// The text of a special token where no file has it.
    pub fn default_token(self, name: &str) -> Option<&'static str> {
        let index = SPECIAL_TOKENS.iter().position(|known| *known == name)?;
        self.special_tokens()[index]
    }

    /// Special tokens beside those that have a name, where no file lists any.
    pub fn extra_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Camembert => &["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"],
            _ => &[],
        }
    }

    /// True if the mask token takes the space before it, where the files give no more than its text.
    pub fn mask_takes_space(self) -> bool {
        matches!(self, Self::Camembert | Self::MpNet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roformers_class_is_refused_whether_a_file_names_it_or_not() {
        for class in [Some("RoFormerTokenizer"), None] {
            let error = Class::of(class, Some("roformer")).unwrap_err();
            assert!(error.contains("RoFormerTokenizer"), "{error}");
        }
        assert_eq!(Class::of(Some("BertTokenizer"), Some("roformer")), Ok(Class::Bert));
    }
}
