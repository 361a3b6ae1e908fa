//! The tile registers of a thread and the operations on them (Intel's Software Developer's Manual, volume 2).

use super::products::{ELEMENTS, dot_bf16, dot_int8};

/// A decoded instruction; addresses are absolute, tiles are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `ldtilecfg`
    Configure { from: usize },
    /// `tilerelease`
    Release,
    /// `tilezero`
    Zero { tile: usize },
    /// `tileloadd` and `tileloaddt1`
    Load { tile: usize, from: usize, stride: usize },
    /// `tilestored`
    Store { tile: usize, to: usize, stride: usize },
    /// `tdpbf16ps`
    DotBf16 { sums: usize, a: usize, b: usize },
    /// `tdpbssd`, `tdpbsud`, `tdpbusd` and `tdpbuud`
    DotInt8 {
        sums: usize,
        a: usize,
        b: usize,
        a_is_signed: bool,
        b_is_signed: bool,
    },
}

/// An exception that an instruction raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// #GP
    Protection(&'static str),
    /// #UD
    Undefined(&'static str),
}

const TILES: usize = 8;
const ROWS: usize = 16;

/// Rows and bytes of each row that are in use.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    bytes: usize,
}

type Tile = [[u32; ELEMENTS]; ROWS];

/// The tiles of palette 1: eight of 16 rows of 64 bytes.
pub struct Tiles {
    shapes: Option<[Shape; TILES]>,
    data: [Tile; TILES],
}

impl Tiles {
    /// Not configured.
    pub const NONE: Self = Self {
        shapes: None,
        data: [[[0; ELEMENTS]; ROWS]; TILES],
    };

    pub fn is_configured(&self) -> bool {
        self.shapes.is_some()
    }

    /// # Safety
    /// The memory that the operation addresses may be read or written: 64 bytes of a configuration, or the rows of the
    /// tile.
    pub unsafe fn execute(&mut self, operation: Operation) -> Result<(), Fault> {
        match operation {
            Operation::Configure { from } => {
                // SAFETY: by the caller's promise.
                let bytes = unsafe { (from as *const [u8; 64]).read_unaligned() };
                *self = Self {
                    shapes: shapes(&bytes)?,
                    ..Self::NONE
                };
            }
            Operation::Release => *self = Self::NONE,
            Operation::Zero { tile } => {
                self.shape(tile)?;
                self.data[tile] = [[0; ELEMENTS]; ROWS];
            }
            Operation::Load { tile, from, stride } => {
                let shape = self.shape(tile)?;
                let mut rows = [[0; ELEMENTS]; ROWS];
                for (i, row) in rows[..shape.rows].iter_mut().enumerate() {
                    let place = from.wrapping_add(i.wrapping_mul(stride)) as *const u8;
                    // SAFETY: by the caller's promise; a row has 64 bytes, and no shape has more.
                    unsafe { place.copy_to_nonoverlapping(row.as_mut_ptr().cast(), shape.bytes) };
                }
                self.data[tile] = rows;
            }
            Operation::Store { tile, to, stride } => {
                let shape = self.shape(tile)?;
                for (i, row) in self.data[tile][..shape.rows].iter().enumerate() {
                    let place = to.wrapping_add(i.wrapping_mul(stride)) as *mut u8;
                    // SAFETY: as above.
                    unsafe { place.copy_from_nonoverlapping(row.as_ptr().cast(), shape.bytes) };
                }
            }
            Operation::DotBf16 { sums, a, b } => self.dot(sums, a, b, dot_bf16)?,
            Operation::DotInt8 {
                sums,
                a,
                b,
                a_is_signed,
                b_is_signed,
            } => self.dot(sums, a, b, |sums, a, b| dot_int8(sums, a, b, a_is_signed, b_is_signed))?,
        }
        Ok(())
    }

    fn shape(&self, tile: usize) -> Result<Shape, Fault> {
        let shape = self.shapes.ok_or(Fault::Undefined("the tiles are not configured"))?[tile];
        if shape.rows == 0 {
            return Err(Fault::Undefined("the tile has no rows"));
        }
        if !shape.bytes.is_multiple_of(4) {
            return Err(Fault::Undefined("a row of the tile is not a multiple of 4 bytes"));
        }
        Ok(shape)
    }

    /// Adds products to `sums`. `add` takes a row of sums, a row of `a` and the rows of `b`, one for each element of
    /// the row of `a`.
    fn dot(
        &mut self,
        sums: usize,
        a: usize,
        b: usize,
        add: impl Fn(&mut [u32; ELEMENTS], &[u32], &[[u32; ELEMENTS]]),
    ) -> Result<(), Fault> {
        if sums == a || sums == b || a == b {
            return Err(Fault::Undefined("the three tiles are not distinct"));
        }
        let (sums_shape, a_shape, b_shape) = (self.shape(sums)?, self.shape(a)?, self.shape(b)?);
        if sums_shape.rows != a_shape.rows {
            return Err(Fault::Undefined("the sums and the first factor differ in rows"));
        }
        if sums_shape.bytes != b_shape.bytes {
            return Err(Fault::Undefined("the sums and the second factor differ in columns"));
        }
        if a_shape.bytes / 4 != b_shape.rows {
            return Err(Fault::Undefined("the factors differ in depth"));
        }
        let depth = b_shape.rows;
        let mut result = [[0; ELEMENTS]; ROWS];
        for (i, row) in result[..sums_shape.rows].iter_mut().enumerate() {
            *row = self.data[sums][i];
            add(row, &self.data[a][i][..depth], &self.data[b][..depth]);
            row[sums_shape.bytes / 4..].fill(0);
        }
        self.data[sums] = result;
        Ok(())
    }
}

/// The configuration that `ldtilecfg` reads from 64 bytes.
fn shapes(bytes: &[u8; 64]) -> Result<Option<[Shape; TILES]>, Fault> {
    let is_zero = |range: std::ops::Range<usize>| bytes[range].iter().all(|&byte| byte == 0);
    match bytes[0] {
        0 => return Ok(None),
        1 => {}
        _ => return Err(Fault::Protection("no such palette")),
    }
    if !(is_zero(2..16) && is_zero(32..48) && is_zero(56..64)) {
        return Err(Fault::Protection("reserved bytes are not zero"));
    }
    // Not a fault on a CPU, but the emulator does not continue interrupted loads.
    if bytes[1] != 0 {
        return Err(Fault::Protection("a row to start with is not emulated"));
    }
    let mut shapes = [Shape { rows: 0, bytes: 0 }; TILES];
    for (tile, shape) in shapes.iter_mut().enumerate() {
        *shape = Shape {
            rows: usize::from(bytes[48 + tile]),
            bytes: usize::from(u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]])),
        };
        if shape.rows > ROWS || shape.bytes > 4 * ELEMENTS {
            return Err(Fault::Protection("a tile is too large"));
        }
        if (shape.rows == 0) != (shape.bytes == 0) {
            return Err(Fault::Protection(
                "a tile has rows without bytes, or bytes without rows",
            ));
        }
    }
    Ok(Some(shapes))
}

#[cfg(test)]
mod tests {
    use super::super::products::tests::pair;
    use super::*;

    /// A configuration with these rows and bytes a row.
    fn config(shapes: &[(u8, u16)]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for (tile, &(rows, row_bytes)) in shapes.iter().enumerate() {
            bytes[48 + tile] = rows;
            bytes[16 + 2 * tile..][..2].copy_from_slice(&row_bytes.to_le_bytes());
        }
        bytes
    }

    fn execute(tiles: &mut Tiles, operation: Operation) -> Result<(), Fault> {
        // SAFETY: the tests below hand out addresses of arrays that are large enough.
        unsafe { tiles.execute(operation) }
    }

    fn configured(shapes: &[(u8, u16)]) -> Tiles {
        let mut tiles = Tiles::NONE;
        let bytes = config(shapes);
        let from = bytes.as_ptr() as usize;
        execute(&mut tiles, Operation::Configure { from }).unwrap();
        tiles
    }

    #[test]
    fn bad_configurations_are_faults() {
        let mut palette = config(&[(16, 64)]);
        palette[0] = 2;
        let mut reserved = config(&[(16, 64)]);
        reserved[40] = 1;
        for (name, bytes) in [
            ("palette", palette),
            ("reserved", reserved),
            ("rows", config(&[(17, 64)])),
            ("bytes", config(&[(16, 68)])),
            ("rows without bytes", config(&[(1, 0)])),
            ("bytes without rows", config(&[(16, 64), (0, 4)])),
        ] {
            let from = bytes.as_ptr() as usize;
            let outcome = execute(&mut configured(&[]), Operation::Configure { from });
            assert!(matches!(outcome, Err(Fault::Protection(_))), "{name}: {outcome:?}");
        }
    }

    #[test]
    fn tiles_that_do_not_fit_are_faults() {
        let dot = |sums, a, b| Operation::DotBf16 { sums, a, b };
        let fits = [(2, 8), (2, 12), (3, 8)];
        for (name, shapes, operation) in [
            ("the same", fits, dot(0, 1, 1)),
            ("the sums are a factor", fits, dot(0, 0, 2)),
            ("depth", [(2, 8), (2, 8), (3, 8)], dot(0, 1, 2)),
            ("rows", [(1, 8), (2, 12), (3, 8)], dot(0, 1, 2)),
            ("columns", [(2, 12), (2, 12), (3, 8)], dot(0, 1, 2)),
            ("half an element", [(2, 6), (2, 12), (3, 6)], dot(0, 1, 2)),
            ("not in use", fits, dot(0, 1, 3)),
            ("zero, not in use", fits, Operation::Zero { tile: 7 }),
        ] {
            let outcome = execute(&mut configured(&shapes), operation);
            assert!(matches!(outcome, Err(Fault::Undefined(_))), "{name}: {outcome:?}");
        }
        assert_eq!(execute(&mut configured(&fits), dot(0, 1, 2)), Ok(()));
        let mut released = configured(&fits);
        execute(&mut released, Operation::Release).unwrap();
        assert!(execute(&mut released, Operation::Zero { tile: 0 }).is_err());
    }

    #[test]
    fn loads_and_stores_take_the_rows_and_bytes_of_the_shape() {
        let mut tiles = configured(&[(2, 8)]);
        let from: [u32; 6] = [1, 2, 3, 4, 5, 6];
        let mut to = [9u32; 6];
        tiles.data[0] = [[7; ELEMENTS]; ROWS];
        let address = from.as_ptr() as usize;
        execute(
            &mut tiles,
            Operation::Load {
                tile: 0,
                from: address,
                stride: 12,
            },
        )
        .unwrap();
        assert_eq!(tiles.data[0][0][..3], [1, 2, 0]);
        assert_eq!(tiles.data[0][1][..3], [4, 5, 0]);
        assert_eq!(tiles.data[0][2][0], 0, "rows beyond the shape become zero");
        let address = to.as_mut_ptr() as usize;
        execute(
            &mut tiles,
            Operation::Store {
                tile: 0,
                to: address,
                stride: 16,
            },
        )
        .unwrap();
        assert_eq!(to, [1, 2, 9, 9, 4, 5]);
    }

    #[test]
    fn bf16_rows_and_columns() {
        // [1 2 3 4] · [[1 0] [0 1] [2 0] [0 2]] = [7 10], on 100 and 200; the second row is twice the first.
        let mut tiles = configured(&[(2, 8), (2, 8), (2, 8)]);
        tiles.data[0][0][..2].copy_from_slice(&[100f32.to_bits(), 200f32.to_bits()]);
        tiles.data[1][0][..2].copy_from_slice(&[pair(1.0, 2.0), pair(3.0, 4.0)]);
        tiles.data[1][1][..2].copy_from_slice(&[pair(2.0, 4.0), pair(6.0, 8.0)]);
        tiles.data[2][0][..2].copy_from_slice(&[pair(1.0, 0.0), pair(0.0, 1.0)]);
        tiles.data[2][1][..2].copy_from_slice(&[pair(2.0, 0.0), pair(0.0, 2.0)]);
        execute(&mut tiles, Operation::DotBf16 { sums: 0, a: 1, b: 2 }).unwrap();
        let rows = [0, 1].map(|row| [0, 1].map(|column| f32::from_bits(tiles.data[0][row][column])));
        assert_eq!(rows, [[107.0, 210.0], [14.0, 20.0]]);
    }
}
