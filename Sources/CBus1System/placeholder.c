#include "CBus1System.h"
