#include "codegen/chain.h"
