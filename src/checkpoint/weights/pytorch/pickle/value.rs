//! Python objects, as far as files of tensors have them.

/// Longest name of a class of storages or of a type.
const TYPE_NAME_BYTES_MAX: usize = 64;

/// Index of a value in [`super::Pickles`].
pub type Id = u32;

/// A Python object, as far as checkpoints of tensors need it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An object without meaning for tensors: a number with a fraction, bytes, None, …
    Opaque,
    Bool(bool),
    Int(i64),
    Str(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or a function, by name only.
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
    /// A tensor in a form that is not read, by its name.
    OtherTensor(&'static str),
}

/// The classes and functions that `torch.save` writes for tensors. A file with any other is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Global {
    /// `collections.OrderedDict` and `dict`.
    Dict,
    /// `torch.FloatStorage` and its relatives: the name without `Storage`, such as `Float`.
    Storage(String),
    /// `torch.float32` and its relatives.
    DType(String),
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`, which names the type of the elements.
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter` and `_rebuild_parameter_with_state`: a tensor, and options.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`: a call of one of the above.
    RebuildFromType,
    /// A function that builds a tensor in a form that is not read.
    RebuildOther(&'static str),
    /// `torch.Size`.
    Tuple,
    /// Without meaning for weights, such as `torch.device`.
    Opaque,
}

impl Global {
    pub fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") | ("builtins" | "__builtin__", "dict") => Self::Dict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "Size") => Self::Tuple,
            ("torch._utils", "_rebuild_sparse_tensor") => Self::RebuildOther("sparse tensor"),
            ("torch._utils", "_rebuild_qtensor") => Self::RebuildOther("quantized tensor"),
            ("torch._utils", "_rebuild_meta_tensor_no_storage") => Self::RebuildOther("tensor without values"),
            ("torch", "device" | "Tensor" | "strided" | "per_tensor_affine" | "per_channel_affine")
            | ("torch.nn.parameter", "Parameter")
            | ("torch.serialization", "_get_layout")
            | (
                "builtins" | "__builtin__",
                "set" | "list" | "int" | "float" | "bool" | "str" | "object" | "complex" | "bytearray",
            )
            | ("collections", "Counter")
            | ("_codecs", "encode") => Self::Opaque,
            ("torch" | "torch.cuda" | "torch.storage", name) if name.len() <= TYPE_NAME_BYTES_MAX => {
                match name.strip_suffix("Storage") {
                    Some(element) => Self::Storage(element.to_owned()),
                    None if is_dtype(name) => Self::DType(name.to_owned()),
                    None => return None,
                }
            }
            _ => return None,
        })
    }
}

fn is_dtype(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let stems = [
        "float", "bfloat", "int", "uint", "bool", "double", "half", "long", "short",
    ];
    stems.contains(&stem) || name.starts_with("float8") || name.starts_with("complex")
}

/// The elements of tensors, in another part of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// The name of its type, as in [`Global::Storage`].
    pub element: String,
    pub key: String,
    /// In elements; in bytes if the type is `Untyped`.
    pub size: u64,
    /// Offset in the storage of this key, in elements: old files have storages that are parts of others.
    pub offset: u64,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub storage: Id,
    /// In elements, as the strides.
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
    /// The type in place of that of the storage, such as `float32`.
    pub dtype: Option<String>,
}
