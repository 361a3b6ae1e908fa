//! The index inputs of a batch on the device.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeDevice;

use crate::backend::gpu::kernels::attention::{TILE_FIELDS, TILE_ROWS};
use crate::backend::gpu::kernels::{ALIGNMENT, Primitive};
use crate::backend::{ForwardInputs, IndexList, QueryRows, SequenceOffsets};

/// The index inputs of a batch on the device.
pub struct GpuInputs {
    host: ForwardInputs,
    token_ids: Primitive,
    position_ids: Primitive,
    /// The position of each readout row.
    readout_positions: Primitive,
    readout_rows: Primitive,
    /// Tiles of all rows, and of the readout rows.
    tiles: [Tiles; 2],
    pub readouts: Vec<GpuReadout>,
}

/// The query rows of all sequences in tiles.
#[derive(Debug)]
pub struct Tiles {
    /// `[tiles, TILE_FIELDS]`.
    pub tiles: Primitive,
    pub count: usize,
}

/// The lists of one [`ReadoutSpec`](crate::backend::ReadoutSpec).
pub struct GpuReadout {
    pub token_ids: Primitive,
    pub row_offsets: Primitive,
    full_rows: Primitive,
}

impl AsRef<ForwardInputs> for GpuInputs {
    fn as_ref(&self) -> &ForwardInputs {
        &self.host
    }
}

impl GpuInputs {
    pub fn indices(&self, list: IndexList) -> &Primitive {
        match list {
            IndexList::TokenIds => &self.token_ids,
            IndexList::PositionIds => &self.position_ids,
            IndexList::ReadoutRows => &self.readout_rows,
            IndexList::FullRows(chunk) => &self.readouts[chunk].full_rows,
        }
    }

    pub fn positions(&self, rows: QueryRows) -> &Primitive {
        match rows {
            QueryRows::All => &self.position_ids,
            QueryRows::ReadoutOnly => &self.readout_positions,
        }
    }

    pub fn tiles(&self, rows: QueryRows) -> &Tiles {
        match rows {
            QueryRows::All => &self.tiles[0],
            QueryRows::ReadoutOnly => &self.tiles[1],
        }
    }
}

/// Several lists in one buffer.
#[derive(Default)]
struct Packing {
    bytes: Vec<u8>,
}

/// The range of a list in the buffer.
struct Place {
    begin: usize,
    numbers: usize,
}

impl Packing {
    /// An empty list becomes one 0, which is not read: no buffer may be empty.
    fn add(&mut self, numbers: &[u32]) -> Place {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let begin = self.bytes.len();
        let numbers = if numbers.is_empty() { &[0] } else { numbers };
        self.bytes
            .extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
        Place {
            begin,
            numbers: numbers.len(),
        }
    }
}

/// Uploads all lists in one write.
pub fn upload(inputs: ForwardInputs, device: &CubeDevice) -> GpuInputs {
    let mut packing = Packing::default();
    let tiles = [QueryRows::All, QueryRows::ReadoutOnly].map(|rows| {
        let tiles = tiles(inputs.offsets(rows), &inputs.query_rows(rows));
        (packing.add(&tiles), tiles.len() / TILE_FIELDS)
    });
    let readout_positions = match inputs.position_ids.is_empty() {
        true => Vec::new(),
        false => inputs.positions(QueryRows::ReadoutOnly).into_owned(),
    };
    let lists = [
        &inputs.token_ids,
        &inputs.position_ids,
        &readout_positions,
        &inputs.readout_rows,
    ];
    let [token_ids, position_ids, readout_positions, readout_rows] = lists.map(|list| packing.add(list));
    let specs = inputs.readouts.iter();
    let readouts: Vec<_> = specs
        .map(|spec| [&spec.token_ids, &spec.row_offsets, &spec.full_rows].map(|list| packing.add(list)))
        .collect();
    let client = device.client();
    let total = packing.bytes.len();
    let handle = client.create_from_slice(&packing.bytes);
    let at = |place: Place| {
        let end = place.begin + place.numbers * size_of::<u32>();
        let handle = handle
            .clone()
            .offset_start(place.begin as u64)
            .offset_end((total - end) as u64);
        let shape = Shape::new([place.numbers]);
        Primitive::new_contiguous(client.clone(), device.clone(), shape, handle, DType::U32)
    };
    GpuInputs {
        token_ids: at(token_ids),
        position_ids: at(position_ids),
        readout_positions: at(readout_positions),
        readout_rows: at(readout_rows),
        tiles: tiles.map(|(place, count)| Tiles {
            tiles: at(place),
            count,
        }),
        readouts: readouts
            .into_iter()
            .map(|[token_ids, row_offsets, full_rows]| GpuReadout {
                token_ids: at(token_ids),
                row_offsets: at(row_offsets),
                full_rows: at(full_rows),
            })
            .collect(),
        host: inputs,
    }
}

/// The query rows of every sequence in tiles of `TILE_ROWS` at most, each with the key rows that it attends to and the
/// tokens of its queries. A list of tokens that is too short counts as zeros.
pub fn tiles(offsets: SequenceOffsets<'_>, query_tokens: &[u32]) -> Vec<u32> {
    let mut tiles = Vec::new();
    for (queries, keys) in offsets.iter() {
        for begin in queries.clone().step_by(TILE_ROWS as usize) {
            let end = queries.end.min(begin + TILE_ROWS as usize);
            tiles.extend([begin, end, keys.start, keys.end].map(|row| row as u32));
            let tokens = begin..begin + TILE_ROWS as usize;
            tiles.extend(tokens.map(|row| query_tokens.get(row).copied().filter(|_| row < end).unwrap_or(0)));
        }
    }
    tiles
}
