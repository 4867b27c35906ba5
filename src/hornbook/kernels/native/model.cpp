// From a plan to a model: every op is checked, then all are put into stages (model.h). Nothing is computed here.
#include "model.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "kernels.h"
#include "weight.h"

namespace hb {
namespace {

// Reads the ops in order, and keeps what the next one depends on.
class Reader {
public:
    explicit Reader(hb_model& model) : model_(model), quantized_now_(model.widths.size(), 0) {}

    bool read() {
        const size_t registers = model_.widths.size();
        for (size_t r = 0; r < registers; ++r)
            if (model_.widths[r] < 1 || model_.widths[r] > 1 << 28)
                return !fail("register %d has a width of %d", static_cast<int>(r), model_.widths[r]);
        for (at_ = 0; at_ < static_cast<int>(model_.ops.size()); ++at_) {
            const hb_op& op = model_.ops[at_];
            if (!registers_exist(op) || !fits(op)) return false;
            place(op);
        }
        return true;
    }

private:
    bool wrong(const char* what, int64_t is, int64_t wanted) const {
        return !fail("op %d (kind %d): %s is %lld, not %lld", at_, model_.ops[at_].kind, what, static_cast<long long>(is),
                     static_cast<long long>(wanted));
    }
    bool wrong(const char* what) const { return !fail("op %d (kind %d): %s", at_, model_.ops[at_].kind, what); }

    int64_t width(int32_t reg) const { return model_.widths[reg]; }

    bool readable(int32_t reg) const {
        if (reg < 0 || reg >= static_cast<int32_t>(model_.widths.size())) return wrong("it reads a register that is none");
        if (!(model_.selects ? model_.after : model_.before)[reg])
            return wrong(model_.selects && model_.before[reg] ? "it reads a register with the rows from before Select"
                                                              : "it reads a register before it is written");
        return true;
    }

    bool registers_exist(const hb_op& op) const {
        const bool in_place = op.kind == HB_HEAD_NORM || op.kind == HB_ROTARY;
        if (op.kind != HB_EMBED && !readable(op.a)) return false;
        if ((op.kind == HB_ADD || op.kind == HB_MIX || op.kind == HB_WEIGH) && !readable(op.b)) return false;
        if (!in_place && (op.out < 0 || op.out >= static_cast<int32_t>(model_.widths.size())))
            return wrong("it writes a register that is none");
        return true;
    }

    bool equal_widths(const hb_op& op) const {
        return width(op.a) == width(op.out) || wrong("width of out", width(op.out), width(op.a));
    }

    bool groups_fit(const hb_op& op) const {  // i[0]: start, i[1]: groups, i[2]: width of each
        const int64_t end = op.i[0] + static_cast<int64_t>(op.i[1]) * op.i[2];
        if (op.i[0] < 0 || op.i[1] < 1 || op.i[2] < 1) return wrong("start, groups or width are not positive");
        return end <= width(op.a) || wrong("end of the groups", end, width(op.a));
    }

    bool known(int32_t activation) const {
        return (activation >= HB_SILU && activation <= HB_RELU) || wrong("activation", activation, HB_SILU);
    }

    bool fits(const hb_op& op) {
        switch (op.kind) {
            case HB_EMBED: return embed_fits(op);
            case HB_NORM:
                if (!op.w[0]) return wrong("a norm without a weight");
                if (!(op.f[0] >= 0)) return wrong("epsilon is negative");
                return equal_widths(op);
            case HB_ADD: return equal_widths(op) && (width(op.b) == width(op.a) || wrong("width of b", width(op.b), width(op.a)));
            case HB_LINEAR: return linear_fits(op);
            case HB_GATE:
                if (width(op.a) != 2 * width(op.out)) return wrong("width of a", width(op.a), 2 * width(op.out));
                return known(op.i[0]);
            case HB_ACT: return known(op.i[0]) && equal_widths(op);
            case HB_HEAD_NORM: return op.w[0] ? groups_fit(op) : wrong("a norm without a weight");
            case HB_ROTARY:
                if (model_.selects) return wrong("a rotation after Select");
                if (!op.w[0] || op.i[5] < 1) return wrong("a rotation without a table");
                if (op.i[3] < 2 || op.i[3] % 2 || op.i[3] > op.i[2]) return wrong("dimensions that turn", op.i[3], op.i[2]);
                model_.context = std::min<int64_t>(model_.context, op.i[5]);
                return groups_fit(op);
            case HB_ATTEND: return attend_fits(op);
            case HB_SELECT:
                if (model_.selects) return wrong("a second Select");
                if (op.a == op.out) return wrong("Select cannot work in place");
                return equal_widths(op);
            case HB_CAP: return equal_widths(op);
            case HB_MIX: return mix_fits(op);
            case HB_WEIGH: return equal_widths(op) && (width(op.b) == 1 || wrong("width of b", width(op.b), 1));
            default: return wrong("there is no such kind");
        }
    }

    bool embed_fits(const hb_op& op) {
        if (!op.weight[0] || op.weight[0]->experts != 1) return wrong("an embedding without a weight that is one matrix");
        if (model_.selects) return wrong("an embedding after Select");
        if (op.weight[0]->cols != width(op.out)) return wrong("columns of the weight", op.weight[0]->cols, width(op.out));
        model_.vocabulary = std::min(model_.vocabulary, op.weight[0]->rows);
        if (op.w[0]) {
            if (op.i[0] < 0 || op.i[1] <= op.i[0]) return wrong("rows of the positions' table", op.i[1], op.i[0] + 1);
            model_.context = std::min<int64_t>(model_.context, op.i[1] - op.i[0]);
        }
        return true;
    }

    bool linear_fits(const hb_op& op) const {
        if (op.i[0] < 1 || op.i[0] > 3) return wrong("parts", op.i[0], 1);
        if (op.a == op.out) return wrong("a product cannot work in place");
        int64_t rows = 0;
        for (int p = 0; p < op.i[0]; ++p) {
            if (!op.weight[p] || op.weight[p]->experts != 1) return wrong("a part without a weight that is one matrix");
            if (op.weight[p]->cols != width(op.a)) return wrong("columns of the weight", op.weight[p]->cols, width(op.a));
            rows += op.weight[p]->rows;
        }
        return rows == width(op.out) || wrong("rows of the weights", rows, width(op.out));
    }

    bool attend_fits(const hb_op& op) {
        const int64_t heads = op.i[0], kv_heads = op.i[1], head_width = op.i[2];
        if (model_.selects) return wrong("attention after Select");
        if (heads < 1 || kv_heads < 1 || head_width < 1 || head_width > 4096 || heads % kv_heads)
            return wrong("heads, key heads or their width do not fit together");
        if (op.i[3] < 0 || op.i[4] < 0) return wrong("layer or window are negative");
        if (width(op.a) != (heads + 2 * kv_heads) * head_width)
            return wrong("width of a", width(op.a), (heads + 2 * kv_heads) * head_width);
        if (width(op.out) != heads * head_width) return wrong("width of out", width(op.out), heads * head_width);
        if (!std::isfinite(op.f[0]) || !(op.f[1] >= 0)) return wrong("scale or cap are not usable numbers");
        (op.i[5] ? model_.causal : model_.looks_ahead) = true;
        return true;
    }

    bool mix_fits(const hb_op& op) {
        if (model_.selects) return wrong("a mixture after Select");
        const hb_weight *gate = op.weight[0], *up = op.weight[1], *down = op.weight[2];
        if (!gate || !up || !down) return wrong("a mixture without its weights");
        for (const hb_weight* weight : {gate, up, down})
            if (weight->experts != width(op.b)) return wrong("experts of a weight", weight->experts, width(op.b));
        for (const hb_weight* weight : {gate, up})
            if (weight->cols != width(op.a)) return wrong("columns of the weight", weight->cols, width(op.a));
        if (up->rows != gate->rows) return wrong("rows of up", up->rows, gate->rows);
        if (down->cols != gate->rows) return wrong("columns of down", down->cols, gate->rows);
        if (down->rows != width(op.out)) return wrong("rows of down", down->rows, width(op.out));
        if (op.i[0] < 1 || op.i[0] > width(op.b)) return wrong("experts for a token", op.i[0], width(op.b));
        model_.mixes = true;
        return known(op.i[2]);
    }

    // ------------------------------------------------------------------------------------------------------ stages
    Stage& tokens_stage() {
        if (model_.stages.empty() || model_.stages.back().kind != Stage::by_tokens ||
            model_.stages.back().selected != model_.selects)
            model_.stages.push_back({Stage::by_tokens, model_.selects, {}, -1, 0});
        return model_.stages.back();
    }

    void add(Task task, int op, int64_t cost) {
        Stage& stage = tokens_stage();
        stage.pieces.push_back({task, op});
        stage.cost += cost;
    }

    void quantize(int32_t reg) {
        if (!quantized_now_[reg]) add(Task::quantize, at_, width(reg));
        quantized_now_[reg] = model_.quantized[reg] = 1;
    }

    void place(const hb_op& op) {
        const bool in_place = op.kind == HB_HEAD_NORM || op.kind == HB_ROTARY;
        const int32_t written = in_place ? op.a : op.out;
        if (op.kind == HB_LINEAR) {
            bool bytes = false;
            for (int p = 0; p < op.i[0]; ++p) bytes |= wants_blocks(op.weight[p]->type);
            if (bytes) quantize(op.a);
            model_.stages.push_back({Stage::linear, model_.selects, {}, at_, 0});
            // Adapters change what has just been written, before anyone reads it. They cost by their rank, which nobody knows
            // here; a stage that holds nothing else costs nothing where no token has one.
            if (op.i[1] >= 0) add(Task::adapt, at_, 64);
        } else if (op.kind == HB_MIX) {
            if (wants_blocks(op.weight[0]->type) || wants_blocks(op.weight[1]->type)) quantize(op.a);
            add(Task::route, at_, 8 * width(op.b));
            model_.stages.push_back({Stage::mix, false, {}, at_, 0});
            add(Task::combine, at_, static_cast<int64_t>(op.i[0]) * width(op.out));
        } else if (op.kind == HB_ATTEND) {
            add(Task::store, at_, 4 * static_cast<int64_t>(op.i[1]) * op.i[2]);
            model_.stages.push_back({Stage::attend, false, {}, at_, 0});
            add(Task::merge, at_, width(op.out));
        } else {
            if (op.kind == HB_SELECT) {
                model_.selects = true;
                std::fill(quantized_now_.begin(), quantized_now_.end(), 0);
            }
            const bool dear = op.kind == HB_GATE || op.kind == HB_ACT || (op.kind == HB_CAP && op.f[1] > 0);
            add(Task::op, at_, width(written) * (dear ? 4 : 1));
        }
        quantized_now_[written] = 0;
        (model_.selects ? model_.after : model_.before)[written] = 1;
    }

    hb_model& model_;
    std::vector<uint8_t> quantized_now_;  // whether the register's bytes are those of its floats
    int at_ = 0;
};

}  // namespace

void Scratch::Free::operator()(uint8_t* at) const { ::operator delete(at, std::align_val_t(64)); }

uint8_t* Scratch::ensure(int64_t bytes) {
    bytes = std::max<int64_t>(bytes, 64);  // a model of one register has no need of any, and null means failure
    if (bytes > size_) {
        data_.reset();
        size_ = 0;
        data_.reset(static_cast<uint8_t*>(::operator new(static_cast<size_t>(bytes), std::align_val_t(64), std::nothrow)));
        if (data_) size_ = bytes;
    }
    return data_.get();
}

}  // namespace hb

hb_model* hb_model_create(const hb_op* ops, int32_t count, const int32_t* widths, int32_t registers) {
    if (!ops || !widths || count < 1 || registers < 1) {
        hb::fail("a plan of %d ops and %d registers", count, registers);
        return nullptr;
    }
    try {
        std::unique_ptr<hb_model> model(new hb_model);
        model->ops.assign(ops, ops + count);
        model->widths.assign(widths, widths + registers);
        for (std::vector<uint8_t>* marks : {&model->before, &model->after, &model->quantized}) marks->assign(registers, 0);
        if (!hb::Reader(*model).read()) return nullptr;
        return model.release();
    } catch (const std::bad_alloc&) {
        hb::fail("no memory for a plan of %d ops", count);
        return nullptr;
    }
}

void hb_model_free(hb_model* model) { delete model; }
