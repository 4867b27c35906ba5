// How many cores this process may use.
#pragma once

namespace hb {

// Physical cores among those that the process may run on, no more than a container's quota; at least 1. A second thread on
// a core adds nothing to products that keep its arithmetic units busy.
int physical_cores();

}  // namespace hb
