// What eager ops end in: whether the result needs a gradient, and if so, its place on the tape; and those calls that
// need nothing else (bindings/direct.h). The classes are Python's (quernel/tensor.py, quernel/autograd.py); their slots
// are filled here without going through __init__, which took 1 to 2 of the 5 to 10 us of an op on tensors with
// gradients.
#include <Python.h>
#include <structmember.h>

#include <array>
#include <deque>
#include <new>
#include <optional>

#include "bindings/bindings.h"
#include "bindings/direct.h"
#include "core/error.h"
#include "runtime/recorder.h"
#include "runtime/thread_pool.h"

namespace quernel {
namespace {

// A slot of a class with __slots__: where its objects have it.
class Slot {
 public:
  Slot(const py::handle& type, const char* name) {
    const py::object descriptor = type.attr(name);
    if (Py_TYPE(descriptor.ptr()) != &PyMemberDescr_Type) throw py::type_error("no slot");
    offset_ = reinterpret_cast<PyMemberDescrObject*>(descriptor.ptr())->d_member->offset;
  }
  PyObject*& of(PyObject* object) const {
    return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset_);
  }

 private:
  Py_ssize_t offset_;
};

// The classes, and what the functions below look at. Made once, never freed.
struct Tape {
  PyTypeObject *tensor, *node, *native;
  Slot t, requires_grad, made_by, spec;                  // of a Tensor
  Slot inputs, backward, saved, versions, order, hooks;  // of a Node
  Slot grad_enabled, recording;                          // of recording.Thread
  PyObject *local, *counter, *guard;                     // recording.local, numbers of nodes, autograd._guard
  PyObject* thread_name;

  bool is_tensor(PyObject* x) const { return PyObject_TypeCheck(x, tensor) != 0; }
  bool wants_grad(PyObject* x) const {
    PyObject* wanted = requires_grad.of(x);
    return wanted && PyObject_IsTrue(wanted) == 1;
  }
};

const Tape* known_tape = nullptr;  // once Python's classes are there

const Tape& tape_of(PyObject* self) { return *static_cast<const Tape*>(PyCapsule_GetPointer(self, nullptr)); }

// A new reference, or null where an exception is set; so below.
PyObject* make_tensor(const Tape& tape, PyObject* native, PyObject* requires_grad, PyObject* node) {
  PyObject* self = tape.tensor->tp_alloc(tape.tensor, 0);
  if (!self) return nullptr;
  tape.t.of(self) = Py_NewRef(native);
  tape.requires_grad.of(self) = Py_NewRef(requires_grad);
  tape.made_by.of(self) = Py_NewRef(node);
  tape.spec.of(self) = Py_NewRef(Py_None);
  return self;
}

// Where the gradient of an input goes: the node that made it, the leaf that wants it, or nowhere.
PyObject* target_of(const Tape& tape, PyObject* x) {
  if (!tape.is_tensor(x)) return Py_None;
  PyObject* node = tape.made_by.of(x);
  if (node && node != Py_None) return node;
  return tape.wants_grad(x) ? x : Py_None;
}

PyObject* targets(const Tape& tape, PyObject* const* inputs, Py_ssize_t count) {
  PyObject* list = PyList_New(count);
  if (!list) return nullptr;
  for (Py_ssize_t i = 0; i < count; ++i) PyList_SET_ITEM(list, i, Py_NewRef(target_of(tape, inputs[i])));
  return list;
}

// Of each saved tensor its version, of anything else 0.
PyObject* versions(const Tape& tape, PyObject* saved) {
  const Py_ssize_t count = PyTuple_GET_SIZE(saved);
  PyObject* list = PyList_New(count);
  if (!list) return nullptr;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* x = PyTuple_GET_ITEM(saved, i);
    uint64_t version = 0;
    try {
      if (Py_TYPE(x) == tape.native) version = py::handle(x).cast<const Tensor&>().version();
    } catch (const py::cast_error& error) {  // one that was never made
      PyErr_SetString(PyExc_TypeError, error.what());
    }
    PyObject* number = PyErr_Occurred() ? nullptr : PyLong_FromUnsignedLongLong(version);
    if (!number) {
      Py_DECREF(list);
      return nullptr;
    }
    PyList_SET_ITEM(list, i, number);
  }
  return list;
}

PyObject* make_node(const Tape& tape, PyObject* inputs, PyObject* backward, PyObject* saved) {
  PyObject* items = PySequence_Fast(inputs, "inputs are a sequence");
  PyObject* self = items ? tape.node->tp_alloc(tape.node, 0) : nullptr;
  if (self) {
    tape.inputs.of(self) = targets(tape, PySequence_Fast_ITEMS(items), PySequence_Fast_GET_SIZE(items));
    tape.backward.of(self) = Py_NewRef(backward);
    tape.saved.of(self) = Py_NewRef(saved);
    tape.versions.of(self) = versions(tape, saved);
    tape.order.of(self) = PyIter_Next(tape.counter);
    tape.hooks.of(self) = Py_NewRef(Py_None);
    if (!tape.inputs.of(self) || !tape.versions.of(self) || !tape.order.of(self)) Py_CLEAR(self);
  }
  Py_XDECREF(items);
  return self;
}

// 1 or 0; -1 where an exception is set.
int is_needed(const Tape& tape, PyObject* const* inputs, Py_ssize_t count) {
  PyObject* thread = PyObject_GetAttr(tape.local, tape.thread_name);
  if (!thread) return -1;
  const bool enabled = tape.grad_enabled.of(thread) == Py_True, recorded = tape.recording.of(thread) != Py_None;
  Py_DECREF(thread);
  if (!enabled) return 0;
  if (recorded) {
    PyObject* done = PyObject_Vectorcall(tape.guard, inputs, static_cast<size_t>(count), nullptr);
    if (!done) return -1;
    Py_DECREF(done);
  }
  for (Py_ssize_t i = 0; i < count; ++i)
    if (tape.is_tensor(inputs[i]) && tape.wants_grad(inputs[i])) return 1;
  return 0;
}

PyObject* needs_grad(PyObject* self, PyObject* const* inputs, Py_ssize_t count) {
  const int needed = is_needed(tape_of(self), inputs, count);
  return needed < 0 ? nullptr : PyBool_FromLong(needed);
}

// (out, inputs, backward, saved = ())
PyObject* put_on_tape(const Tape& tape, PyObject* const* args, Py_ssize_t count) {
  PyObject* saved = count > 3 ? PySequence_Tuple(args[3]) : PyTuple_New(0);
  PyObject* node = saved ? make_node(tape, args[1], args[2], saved) : nullptr;
  PyObject* result = node ? make_tensor(tape, args[0], Py_True, node) : nullptr;
  Py_XDECREF(saved);
  Py_XDECREF(node);
  return result;
}

bool are_arguments(const char* name, Py_ssize_t count) {
  if (count == 3 || count == 4) return true;
  PyErr_Format(PyExc_TypeError, "%s() takes 3 or 4 arguments, got %zd", name, count);
  return false;
}

PyObject* put_on_tape(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  return are_arguments("put_on_tape", count) ? put_on_tape(tape_of(self), args, count) : nullptr;
}

PyObject* attach(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  if (!are_arguments("attach", count)) return nullptr;
  const Tape& tape = tape_of(self);
  PyObject* items = PySequence_Fast(args[1], "inputs are a sequence");
  const int needed = items ? is_needed(tape, PySequence_Fast_ITEMS(items), PySequence_Fast_GET_SIZE(items)) : -1;
  Py_XDECREF(items);
  if (needed < 0) return nullptr;
  return needed ? put_on_tape(tape, args, count) : make_tensor(tape, args[0], Py_None, Py_None);
}

// The native tensor of a Tensor that has one; null otherwise.
PyObject* native_of(const Tape& tape, PyObject* x) {
  if (!tape.is_tensor(x)) return nullptr;
  PyObject* native = tape.t.of(x);
  return native && Py_TYPE(native) == tape.native ? native : nullptr;
}

// The GIL is kept for what takes less time than to let go of it: so many pairs of elements, or elements of one operand
// on the CPU. On a device another thread may hold what this one waits for.
constexpr int64_t kBriefPairs = 1 << 16, kBriefElements = 1 << 12;

bool is_brief(const Direct& op, const Tensor* const* operands) {
  int64_t pairs = 1;
  for (int i = 0; i < op.operands; ++i) {
    if (operands[i]->device() != Device::kCpu || __builtin_mul_overflow(pairs, operands[i]->size(), &pairs))
      return false;
  }
  return pairs <= (op.operands == 1 ? kBriefElements : kBriefPairs);
}

Tensor compute(const Direct& op, const Tensor* const* operands) {
  std::optional<py::gil_scoped_release> unlocked;
  if (!is_brief(op, operands)) unlocked.emplace();
  return op.call(op, operands);
}

std::deque<Direct>& direct_ops() {
  static auto* ops = new std::deque<Direct>;
  return *ops;
}

py::object function(PyMethodDef& definition, const py::capsule& tape) {
  return py::reinterpret_steal<py::object>(PyCFunction_New(&definition, tape.ptr()));
}

template <class F>
PyMethodDef fast(const char* name, F* f, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f)), METH_FASTCALL, doc};
}

}  // namespace

void add_direct(const Direct& op) { direct_ops().push_back(op); }

const Direct* find_direct(const std::string& name) {
  for (const Direct& op : direct_ops())
    if (name == op.name) return &op;
  return nullptr;
}

PyObject* call_direct(const Direct& op, PyObject* const* operands) {
  if (!known_tape || Recorder::current()) return nullptr;
  const Tape& tape = *known_tape;
  std::array<const Tensor*, kMostOperands> tensors;
  std::array<py::object, kMostOperands> held;  // a parameter may lose its own while this thread lets go of the GIL
  bool wants_grad = false;
  for (size_t i = 0; i < static_cast<size_t>(op.operands); ++i) {
    held[i] = py::reinterpret_borrow<py::object>(native_of(tape, operands[i]));
    if (!held[i]) return nullptr;
    // What cast<const Tensor&>() finds after a look at its table of types.
    tensors[i] = static_cast<const Tensor*>(
        reinterpret_cast<py::detail::instance*>(held[i].ptr())->get_value_and_holder().value_ptr());
    if (!tensors[i]) return nullptr;
    wants_grad |= tape.wants_grad(operands[i]);
  }
  if (wants_grad && is_needed(tape, operands, op.operands) != 0) return nullptr;
  try {
    const py::object native = py::cast(compute(op, tensors.data()));
    return make_tensor(tape, native.ptr(), Py_None, Py_None);
  } catch (const Error&) {  // the function says it in Python's names
  } catch (const Interrupted&) {
    if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
  } catch (const std::bad_alloc& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

void register_tape(py::module_& m) {
  m.def(
      "tape_functions",
      [](const py::type& tensor, const py::type& node, const py::type& thread, const py::object& local,
         const py::object& counter, const py::object& guard) {
        const auto as_type = [](const py::handle& t) {
          return reinterpret_cast<PyTypeObject*>(py::handle(t).inc_ref().ptr());
        };
        const auto* tape = new Tape{as_type(tensor),
                                    as_type(node),
                                    as_type(py::type::of<Tensor>()),
                                    {tensor, "_t"},
                                    {tensor, "_requires_grad"},
                                    {tensor, "_node"},
                                    {tensor, "_spec"},
                                    {node, "inputs"},
                                    {node, "backward"},
                                    {node, "saved"},
                                    {node, "versions"},
                                    {node, "order"},
                                    {node, "hooks"},
                                    {thread, "grad_enabled"},
                                    {thread, "current"},
                                    local.inc_ref().ptr(),
                                    counter.inc_ref().ptr(),
                                    guard.inc_ref().ptr(),
                                    PyUnicode_InternFromString("thread")};
        known_tape = tape;
        const py::capsule self(tape, [](void*) {});
        using Fast = PyObject*(PyObject*, PyObject* const*, Py_ssize_t);
        static PyMethodDef definitions[] = {
            fast("needs_grad", &needs_grad, "Whether the result of an op on these inputs needs a gradient."),
            fast("attach", &attach, "See quernel.autograd.attach."),
            fast("put_on_tape", static_cast<Fast*>(&put_on_tape), "See quernel.autograd.put_on_tape.")};
        return py::make_tuple(function(definitions[0], self), function(definitions[1], self),
                              function(definitions[2], self));
      },
      py::arg("tensor"), py::arg("node"), py::arg("thread"), py::arg("local"), py::arg("counter"), py::arg("guard"),
      "(needs_grad, attach, put_on_tape) of quernel.autograd, given its classes.");
}

}  // namespace quernel
