//! The table as a Parquet file.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};

use super::columns::{Cell, Row, Rows};

/// Rows per row group, which writers and readers hold in memory.
const ROWS_IN_GROUP: usize = 10_000;

/// Writes the table. Errors of the system are given without the library's words.
pub(super) fn write(
    rows: Rows<'_>,
    tensors: &[String],
    out: impl Write + Send,
) -> anyhow::Result<()> {
    write_groups(rows, tensors, out).map_err(|error| match error.downcast() {
        Ok(ParquetError::External(source)) => anyhow::anyhow!(source),
        Ok(error) => error.into(),
        Err(error) => error,
    })
}

/// Integers are INT64, other numbers nullable DOUBLE, and texts nullable UTF-8 strings.
fn write_groups(
    mut rows: Rows<'_>,
    tensors: &[String],
    out: impl Write + Send,
) -> anyhow::Result<()> {
    let group = |rows: &mut Rows<'_>| -> Result<Vec<Row>, _> {
        rows.by_ref().take(ROWS_IN_GROUP).collect()
    };
    let mut next = group(&mut rows)?;
    let fields = next.first().map_or(Vec::new(), |row| {
        let names = row.names(tensors).into_iter();
        names.zip(row.cells(tensors)).map(field).collect()
    });
    let fields: Result<Vec<TypePtr>, ParquetError> = fields.into_iter().collect();
    let schema = Type::group_type_builder("step")
        .with_fields(fields?)
        .build()?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let mut writer =
        SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties.build()))?;
    while !next.is_empty() {
        let cells: Vec<Vec<Cell<'_>>> = next.iter().map(|row| row.cells(tensors)).collect();
        let mut group_writer = writer.next_row_group()?;
        let mut column = 0;
        while let Some(mut values) = group_writer.next_column()? {
            let cells: Vec<&Cell<'_>> = cells.iter().map(|row| &row[column]).collect();
            write_column(&cells, &mut values)?;
            values.close()?;
            column += 1;
        }
        group_writer.close()?;
        next = group(&mut rows)?;
    }
    writer.close()?;
    Ok(())
}

fn field((name, cell): (String, Cell<'_>)) -> Result<TypePtr, ParquetError> {
    let (physical, logical, repetition) = match cell {
        Cell::Whole(_) => (Physical::INT64, None, Repetition::REQUIRED),
        Cell::Real(_) => (Physical::DOUBLE, None, Repetition::OPTIONAL),
        Cell::Text(_) => (
            Physical::BYTE_ARRAY,
            Some(LogicalType::String),
            Repetition::OPTIONAL,
        ),
    };
    let field = Type::primitive_type_builder(&name, physical)
        .with_repetition(repetition)
        .with_logical_type(logical)
        .build()?;
    Ok(Arc::new(field))
}

/// Writes the values of a column, which are all of one kind.
fn write_column(
    cells: &[&Cell<'_>],
    writer: &mut SerializedColumnWriter<'_>,
) -> Result<(), ParquetError> {
    let (mut wholes, mut reals, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    // For each row its definition level: 1 if it has a value, otherwise 0.
    let mut levels = Vec::new();
    for cell in cells {
        levels.push(i16::from(!matches!(
            cell,
            Cell::Real(None) | Cell::Text(None)
        )));
        match cell {
            Cell::Whole(number) => wholes.push(number.cast_signed()),
            Cell::Real(number) => reals.extend(*number),
            Cell::Text(text) => texts.extend(text.map(ByteArray::from)),
        }
    }
    let levels = Some(levels.as_slice());
    match cells.first() {
        Some(Cell::Whole(_)) => writer.typed::<Int64Type>().write_batch(&wholes, None, None),
        Some(Cell::Real(_)) => writer
            .typed::<DoubleType>()
            .write_batch(&reals, levels, None),
        Some(Cell::Text(_)) => writer
            .typed::<ByteArrayType>()
            .write_batch(&texts, levels, None),
        None => Ok(0),
    }
    .map(drop)
}
