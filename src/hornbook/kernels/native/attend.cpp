// How a step shares out its attention. attention.inc computes; here is decided who computes what.
//
// A unit is a block of rows that share a key head, over everything they see. Where that gives too few units (one token at the
// end of a long text), each is divided by chunks: every chunk leaves a Part of each row, and the next stage by tokens puts a
// token's Parts together in their order. The arithmetic is the same, so the choice is free.
#include <algorithm>

#include "pool.h"
#include "step.h"

namespace hb {
namespace {

constexpr int64_t small_attention = 1 << 15;  // products of q and k; below it other threads stay asleep

int32_t group_of(const hb_op& op) { return op.i[0] / op.i[1]; }

}  // namespace

BlockShape Step::shape(const hb_op& op) const {
    return op.i[5] ? cache_->shape : BlockShape{HB_CACHE_F32, op.i[2]};
}

AttentionRows Step::rows_of(const hb_op& op, const Segment& segment, int32_t head) const {
    AttentionRows rows;
    rows.block = shape(op);
    rows.heads = group_of(op);
    rows.causal = op.i[5] != 0;
    rows.window = op.i[4];
    rows.scale = op.f[0], rows.softcap = op.f[1];
    rows.slopes = op.w[0] ? op.w[0] + head * rows.heads : nullptr;
    rows.stride = model_.widths[op.a];
    rows.q = row(op.a, segment.first) + static_cast<int64_t>(head) * rows.heads * op.i[2];
    rows.length = batch_.lengths[segment.sequence];
    if (rows.causal) {
        rows.base = cache_->block(0, op.i[3], head);
        rows.page_bytes = cache_->page_bytes;
        rows.pages = batch_.pages + static_cast<int64_t>(segment.sequence) * batch_.max_pages;
        rows.position = batch_.positions[segment.first];
    } else {
        rows.base = pages_ + head * rows.block.bytes();
        rows.page_bytes = op.i[1] * rows.block.bytes();
        rows.pages = page_numbers_.data() + first_page_[&segment - segments_.data()];
        rows.position = 0;
    }
    return rows;
}

void Step::store(const hb_op& op, int64_t t) const {
    const Segment& segment = segments_[segment_of_[t]];
    const int32_t width = op.i[2];
    const float* key = row(op.a, t) + static_cast<int64_t>(op.i[0]) * width;
    const float* value = key + static_cast<int64_t>(op.i[1]) * width;
    for (int32_t head = 0; head < op.i[1]; ++head, key += width, value += width) {
        const AttentionRows rows = rows_of(op, segment, head);
        const int64_t place = rows.at((t - segment.first) * rows.heads);
        uint8_t* block = const_cast<uint8_t*>(rows.base) + rows.pages[place / HB_PAGE] * rows.page_bytes;
        kernels_.attention->store(rows.block, block, static_cast<int>(place % HB_PAGE), key, value);
    }
}

// Parts lie as [key head][token][head in group][chunk], so that the rows of a unit are evenly apart.
float* Step::part(const hb_op& op, const Segment& segment, int32_t head, int64_t row) const {
    const int64_t at = (static_cast<int64_t>(head) * batch_.tokens + segment.first) * group_of(op) + row;
    return parts_ + at * division_.most_chunks * part_floats(shape(op));
}

void Step::divide(const hb_op& op) {
    Division& d = division_;
    d = Division();
    const int32_t group = group_of(op);
    int64_t products = 0;
    for (const Segment& segment : segments_) {
        const AttentionRows rows = rows_of(op, segment, 0);
        const int64_t count = static_cast<int64_t>(segment.count) * group;
        const int64_t first = rows.first_key(0) / chunk_keys, end = (rows.last_key(count - 1) + chunk_keys - 1) / chunk_keys;
        d.first_chunk.push_back(first), d.chunks.push_back(end - first);
        d.most_chunks = std::max(d.most_chunks, end - first);
        products += count * (rows.last_key(count - 1) - rows.first_key(0)) * op.i[2] * op.i[1];
        const int32_t s = static_cast<int32_t>(&segment - segments_.data());
        for (int32_t head = 0; head < op.i[1]; ++head)
            for (int64_t row = 0; row < count; row += most_rows)
                d.units.push_back({s, head, static_cast<int32_t>(row), static_cast<int32_t>(std::min(row + most_rows, count)), -1});
    }
    const int64_t all = static_cast<int64_t>(d.units.size()), room = d.most_chunks * part_floats(shape(op)) * 4;
    if (products < small_attention || threads() == 1) {
        d.grain = all;
    } else if (all < 4 * threads() && d.most_chunks > 1 && room * batch_.tokens * op.i[0] <= part_bytes) {
        d.parted = true;
        std::vector<Division::Unit> whole;
        whole.swap(d.units);
        for (Division::Unit unit : whole)
            for (int64_t c = 0; c < d.chunks[unit.segment]; ++c) {
                unit.chunk = static_cast<int32_t>(d.first_chunk[unit.segment] + c);
                d.units.push_back(unit);
            }
        d.grain = std::max<int64_t>(1, static_cast<int64_t>(d.units.size()) / (8 * threads()));
    } else {
        // Later rows see more: begun first, they do not end last.
        std::reverse(d.units.begin(), d.units.end());
        d.grain = std::max<int64_t>(1, all / (16 * threads()));
    }
}

void Step::attend(const hb_op& op) {
    divide(op);
    const int64_t space = attention_floats(shape(op)), parts = part_floats(shape(op));
    const int64_t row_parts = division_.most_chunks * parts, stride = model_.widths[op.out];
    parallel_for(static_cast<int64_t>(division_.units.size()), division_.grain, [&](int64_t begin, int64_t end) {
        for (; begin < end; ++begin) {
            const Division::Unit& unit = division_.units[begin];
            const Segment& segment = segments_[unit.segment];
            const AttentionRows rows = rows_of(op, segment, unit.head);
            if (unit.chunk < 0) {
                kernels_.attention->attend(rows, unit.first, unit.last,
                                           row(op.out, segment.first) + static_cast<int64_t>(unit.head) * rows.heads * op.i[2],
                                           stride, thread_space(space));
            } else {
                float* at = part(op, segment, unit.head, unit.first) + (unit.chunk - division_.first_chunk[unit.segment]) * parts;
                kernels_.attention->part(rows, unit.first, unit.last, unit.chunk, at, row_parts, thread_space(space));
            }
        }
    });
}

void Step::merge(const hb_op& op, int64_t t) const {
    if (!division_.parted) return;
    const Segment& segment = segments_[segment_of_[t]];
    const BlockShape block = shape(op);
    const int32_t group = group_of(op);
    for (int32_t h = 0; h < op.i[0]; ++h)
        kernels_.attention->merge(block, part(op, segment, h / group, (t - segment.first) * group + h % group),
                                  division_.chunks[segment_of_[t]], row(op.out, t) + static_cast<int64_t>(h) * op.i[2],
                                  thread_space(block.padded()));
}

}  // namespace hb
