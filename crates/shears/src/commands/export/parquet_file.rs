//! The table as a Parquet file.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};

use super::columns::{Column, Read, Row, Rows};

/// Rows per row group, which writers and readers hold in memory.
const ROWS_IN_GROUP: usize = 10_000;

/// Integers are INT64, other numbers nullable DOUBLE, and texts nullable UTF-8 strings.
pub(super) fn write(
    columns: &[Column],
    mut rows: Rows<'_>,
    out: impl Write + Send,
) -> anyhow::Result<()> {
    let fields: Result<Vec<TypePtr>, ParquetError> = columns.iter().map(field).collect();
    let schema = Type::group_type_builder("step")
        .with_fields(fields?)
        .build()?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let mut writer =
        SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties.build()))?;
    loop {
        let rows: Vec<Row> = rows
            .by_ref()
            .take(ROWS_IN_GROUP)
            .collect::<Result<_, _>>()?;
        if rows.is_empty() {
            break;
        }
        let mut group = writer.next_row_group()?;
        for column in columns {
            // The writer has a column for each field of the schema, in the same order.
            if let Some(mut values) = group.next_column()? {
                write_column(&column.read, &rows, &mut values)?;
                values.close()?;
            }
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

fn field(column: &Column) -> Result<TypePtr, ParquetError> {
    let (physical, logical, repetition) = match column.read {
        Read::Whole(_) => (Physical::INT64, None, Repetition::REQUIRED),
        Read::Real(_) => (Physical::DOUBLE, None, Repetition::OPTIONAL),
        Read::Text(_) => (
            Physical::BYTE_ARRAY,
            Some(LogicalType::String),
            Repetition::OPTIONAL,
        ),
    };
    let field = Type::primitive_type_builder(&column.name, physical)
        .with_repetition(repetition)
        .with_logical_type(logical)
        .build()?;
    Ok(Arc::new(field))
}

fn write_column(
    read: &Read,
    rows: &[Row],
    writer: &mut SerializedColumnWriter<'_>,
) -> Result<(), ParquetError> {
    match read {
        Read::Whole(read) => {
            let values: Vec<i64> = rows.iter().map(|row| read(row).cast_signed()).collect();
            let column = writer.typed::<Int64Type>();
            column.write_batch(&values, None, None)?;
        }
        Read::Real(read) => {
            let (values, levels) = present(rows.iter().map(read));
            let column = writer.typed::<DoubleType>();
            column.write_batch(&values, Some(&levels), None)?;
        }
        Read::Text(read) => {
            let (values, levels) = present(rows.iter().map(|row| read(row).map(ByteArray::from)));
            let column = writer.typed::<ByteArrayType>();
            column.write_batch(&values, Some(&levels), None)?;
        }
    }
    Ok(())
}

/// The values that are present, and for each row its definition level: 1 if it has a value,
/// otherwise 0.
fn present<T>(values: impl Iterator<Item = Option<T>>) -> (Vec<T>, Vec<i16>) {
    let (mut present, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        levels.push(i16::from(value.is_some()));
        present.extend(value);
    }
    (present, levels)
}
