-- Which item was parsed from which request, as rows: a list can't be indexed. Written once with the item, whose
-- `request_keys` never change. Both indexes are for `trace`, which asks from the parent's side.

CREATE TABLE item_requests (
    request_key VARCHAR NOT NULL,
    item_id     VARCHAR NOT NULL
);
INSERT INTO item_requests SELECT DISTINCT unnest(request_keys), id FROM items;
CREATE INDEX item_requests_by_request ON item_requests (request_key);
CREATE INDEX dataset_items_by_item ON dataset_items (item_id);
