-- Leaves room for updated rows in their page, so that a touch updates no index. sql/002-table.sql does it for new tables.
--
--   psql -v part_schema=public -v part=session -f sql/008-fillfactor.sql
--
-- `part` is the table itself or, if it is partitioned, one of its partitions; run it for each. Only new pages are affected.

alter table :"part_schema".:"part" set (fillfactor = 70);
