"""Registration of published days in tables of a data lake. Importing the package registers every table format."""

from rayrec.publishing.tables import delta_table, iceberg_table  # noqa: F401
from rayrec.publishing.tables.table_format import TABLE_FORMATS, TableFormat

__all__ = ["TABLE_FORMATS", "TableFormat"]
